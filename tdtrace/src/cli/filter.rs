//! The option `--filter` of every command that prints or shows rows.

use crate::model::{field, filter::Filter};

/// Which rows to print or show.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Show only rows that EXPR keeps, for example 'name=web* exits_per_s>1k'
    #[arg(long, value_name = "EXPR", value_parser = Filter::parse, long_help = long_help())]
    filter: Option<Filter>,
}

impl FilterArgs {
    /// The filter, if one was given.
    pub(super) const fn get(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }
}

pub(super) fn long_help() -> String {
    let keys: Vec<&str> = field::keys().into_iter().map(|(key, _)| key).collect();
    format!(
        "Show only rows that EXPR keeps\n\n\
         Terms are KEY=VALUE with = != < <= > >=, joined by a space (and), or, ! and parentheses. * and ? \
         stand for any characters; numbers may be hexadecimal and end in k M G % ns us ms s. A word \
         alone is looked for in every text of a row. A row of a VM has the VM's columns too; a term on \
         a column that a row does not have does not restrict it. Totals stay totals of everything.\n\n\
         Examples: 'name=web* exits_per_s>1k'   'class=mmio_write address>=0xfee00000'   \
         '!state=ended (kind=TD or p99>1ms)'\n\nColumns (_ns and _pct may be left out): {}",
        keys.join(" ")
    )
}
