//! Code by address: function, module, the chain of inlined functions.

use std::{
    ffi::OsString, os::unix::ffi::OsStrExt as _, os::unix::ffi::OsStringExt as _, sync::Arc,
};

use super::{
    super::{
        Error,
        kind::Kind,
        row::{Malformed, Row},
    },
    bytes::{escaped, from_hex, hex, unescaped},
    told::Told,
};
use crate::{sites::Site, verdict::Frame};

/// Code.
pub(super) struct Codes;

impl Told for Codes {
    type Key = u64;
    type Begun = Site;
    type Value = Arc<Site>;
    const CLEARED: Kind = Kind::CodeCleared;

    fn rows(address: &u64, code: &Arc<Site>) -> Result<Vec<Row>, Error> {
        let mut rows = said(code);
        for row in &mut rows {
            row.key.address = *address;
        }
        Ok(rows)
    }

    fn begin(row: &Row) -> Result<Option<(u64, Site)>, Malformed> {
        let code = || Site { address: row.value, ..Site::default() };
        Ok((row.key.kind == Kind::Code).then(|| (row.key.address, code())))
    }

    fn take(address: &u64, code: &mut Site, row: &Row) -> Result<bool, Malformed> {
        let text = || row.as_text().to_owned();
        match row.key.kind {
            Kind::CodeFunction => code.function = Some(text()),
            Kind::CodeOffset => code.offset = row.value,
            Kind::CodeModule => code.module = Some(text()),
            Kind::CodeChain => code.chain = Some(Vec::new()),
            Kind::CodeFrame | Kind::CodeFile | Kind::CodeLine => frame(code, row)?,
            Kind::CodeDebugFile => {
                code.debug_file = Some(OsString::from_vec(unescaped(row.as_text())?).into());
            }
            Kind::CodeNote => code.note = Some(text()),
            Kind::CodeInExceptionTable => code.in_exception_table = Some(row.value != 0),
            Kind::CodeBytes => code.bytes = from_hex(row.as_text())?,
            _ => return Ok(false),
        }
        if row.key.address != *address {
            return Err(Malformed("a row of other code"));
        }
        Ok(true)
    }
}

/// What is said of `code`, without the address.
fn said(code: &Site) -> Vec<Row> {
    let Site {
        address,
        function,
        offset,
        module,
        chain,
        debug_file,
        bytes,
        in_exception_table,
        note,
    } = code;
    let mut rows = vec![Row::number(Kind::Code, 0, *address)];
    rows.extend(function.as_ref().map(|name| Row::text(Kind::CodeFunction, 0, name)));
    if *offset != 0 {
        rows.push(Row::number(Kind::CodeOffset, 0, *offset));
    }
    rows.extend(module.as_ref().map(|name| Row::text(Kind::CodeModule, 0, name)));
    if let Some(chain) = chain {
        rows.push(Row::number(Kind::CodeChain, 0, chain.len() as u64));
        for (index, Frame { function, file, line }) in (0..).zip(chain) {
            rows.push(Row::text(Kind::CodeFrame, index, function));
            rows.extend(file.as_ref().map(|file| Row::text(Kind::CodeFile, index, file)));
            rows.extend(line.map(|line| Row::number(Kind::CodeLine, index, line.into())));
        }
    }
    let path = debug_file.as_ref().map(|path| escaped(path.as_os_str().as_bytes()));
    rows.extend(path.map(|path| Row::text(Kind::CodeDebugFile, 0, &path)));
    rows.extend(note.as_ref().map(|note| Row::text(Kind::CodeNote, 0, note)));
    let in_table = in_exception_table.map(u64::from);
    rows.extend(in_table.map(|yes| Row::number(Kind::CodeInExceptionTable, 0, yes)));
    if !bytes.is_empty() {
        rows.push(Row::text(Kind::CodeBytes, 0, &hex(bytes)));
    }
    rows
}

/// Puts what `row` says of a function into the chain.
fn frame(code: &mut Site, row: &Row) -> Result<(), Malformed> {
    let odd = Malformed("a chain of functions that is not in order");
    let chain = code.chain.as_mut().ok_or(odd)?;
    let text = row.as_text().to_owned();
    if row.key.kind == Kind::CodeFrame {
        if row.key.index as usize != chain.len() {
            return Err(odd);
        }
        chain.push(Frame { function: text, file: None, line: None });
        return Ok(());
    }
    let last = chain.len().checked_sub(1).filter(|last| *last == row.key.index as usize);
    let frame = last.and_then(|last| chain.get_mut(last)).ok_or(odd)?;
    if row.key.kind == Kind::CodeFile {
        frame.file = Some(text);
    } else {
        frame.line = Some(row.small()?);
    }
    Ok(())
}
