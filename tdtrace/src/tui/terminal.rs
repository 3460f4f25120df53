//! The real terminal and the loop: a tick, a key or a signal, then a new screen.
//!
//! The terminal is restored when the loop ends, on SIGTERM, SIGINT and SIGHUP, on an error and on a
//! panic.

use std::{io::stdout, time::Duration};

use anyhow::{Context as _, Result};
use crossterm::event::{Event, EventStream, KeyEvent, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::{
    keymap,
    state::{Rows, State},
    theme::Theme,
    view,
};
use crate::{
    model::{aggregate::Aggregate, filter::Filter, sample::VmKey, snapshot::Snapshot},
    source::Source,
};

/// Shows `source` every `every`, rows as `filter` says, until the user quits or a signal comes.
///
/// # Errors
/// When the terminal cannot be used or the source fails.
pub async fn run(source: &mut dyn Source, every: Duration, filter: Option<Filter>) -> Result<()> {
    let mut signals = Signals::new()?;
    let theme = Theme::from_env(std::env::var_os("NO_COLOR").as_deref());
    let screen = Screen {
        state: State { every, filter, theme, ..State::default() },
        aggregate: Aggregate::new(),
        snapshot: None,
        rows: Rows::default(),
        detail: None,
    };
    // Puts a hook in front of the panic's message that restores the terminal first.
    let mut terminal = ratatui::try_init().context("the terminal cannot be set up")?;
    let result = screen.events(&mut terminal, source, &mut signals).await;
    let restored = ratatui::try_restore().context("the terminal cannot be restored");
    result.and(restored)
}

struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self([
            catch(SignalKind::terminate())?,
            catch(SignalKind::interrupt())?,
            catch(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What is shown.
struct Screen {
    state: State,
    aggregate: Aggregate,
    snapshot: Option<Snapshot>,
    /// What was drawn last.
    rows: Rows,
    /// The VM whose vCPUs' durations were asked for.
    detail: Option<VmKey>,
}

impl Screen {
    async fn events(
        mut self,
        terminal: &mut DefaultTerminal,
        source: &mut dyn Source,
        signals: &mut Signals,
    ) -> Result<()> {
        let mut keys = EventStream::new();
        let mut every = self.state.every;
        let mut ticks = ticks(Instant::now(), every);
        while !self.state.quit {
            tokio::select! {
                _ = ticks.tick() => {
                    // Paused, slots are still given back, or new VMs would find none.
                    let next = self.aggregate.apply(source.sample()?);
                    if self.state.paused {
                        continue;
                    }
                    self.snapshot = Some(next);
                }
                event = keys.next() => match event {
                    Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                        self.key(key, source)?;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
                    // The terminal is gone.
                    None => return Ok(()),
                },
                () = signals.any() => return Ok(()),
            }
            if every != self.state.every {
                every = self.state.every;
                ticks = self::ticks(Instant::now() + every, every);
            }
            terminal
                .draw(|frame| self.rows = view::draw(frame, self.snapshot.as_ref(), &self.state))
                .context("the terminal cannot be written")?;
            self.state.settle(&self.rows);
        }
        Ok(())
    }

    fn key(&mut self, key: KeyEvent, source: &mut dyn Source) -> Result<()> {
        if self.state.input.is_some() {
            if let Some(edit) = keymap::edit(key) {
                self.state.edit(edit);
            }
            return Ok(());
        }
        let Some(action) = keymap::action(key) else { return Ok(()) };
        self.state.apply(action, &self.rows);
        if std::mem::take(&mut self.state.reset) {
            self.aggregate.apply(source.sample()?);
            self.snapshot = self.aggregate.reset();
        }
        let detail = self.wanted();
        if detail != self.detail {
            self.detail = detail;
            source.detail(detail);
        }
        Ok(())
    }

    /// The VM that the user looks into.
    fn wanted(&self) -> Option<VmKey> {
        let id = self.state.scope.vm()?;
        let vm = self.snapshot.as_ref()?.vms.iter().find(|vm| vm.id == id)?;
        (!vm.ended).then_some(vm.key)
    }
}

fn ticks(first: Instant, every: Duration) -> Interval {
    let mut ticks = interval_at(first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Whether stdin and stdout are a terminal.
#[must_use]
pub fn is_available() -> bool {
    use std::io::IsTerminal as _;
    stdout().is_terminal() && std::io::stdin().is_terminal()
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyCode;

    use super::*;
    use crate::model::{sample::Sample, testing::samples};

    /// Delivers the same sample again and again, and notes what it is asked for.
    struct Asked(Vec<Option<VmKey>>);

    impl Source for Asked {
        fn sample(&mut self) -> Result<Sample> {
            samples().pop().context("no sample")
        }

        fn detail(&mut self, vm: Option<VmKey>) {
            self.0.push(vm);
        }
    }

    /// A screen on which the second VM is chosen.
    fn screen() -> Screen {
        let mut aggregate = Aggregate::new();
        let snapshot = samples().into_iter().map(|sample| aggregate.apply(sample)).last();
        let mut state = State::default();
        let rows = Rows { id: Some([2, 0, 0]), ..Rows::default() };
        state.settle(&rows);
        Screen { state, aggregate, snapshot, rows, detail: None }
    }

    fn press(screen: &mut Screen, source: &mut Asked, code: KeyCode) {
        screen.key(code.into(), source).unwrap();
    }

    #[test]
    fn the_source_is_told_which_vm_is_looked_into() {
        let (mut screen, mut source) = (screen(), Asked(Vec::new()));
        let key = screen.snapshot.as_ref().unwrap().vms[1].key;
        for code in [KeyCode::Enter, KeyCode::Down, KeyCode::Esc, KeyCode::Esc] {
            press(&mut screen, &mut source, code);
        }
        assert_eq!(source.0, [Some(key), None]);
    }

    #[test]
    fn a_reset_shows_nothing_counted_at_once() {
        let (mut screen, mut source) = (screen(), Asked(Vec::new()));
        press(&mut screen, &mut source, KeyCode::Char('z'));
        let snapshot = screen.snapshot.unwrap();
        assert_eq!(snapshot.since_reset, Some(Duration::ZERO));
        assert_eq!(snapshot.counts.iter().count(), 0);
        assert_eq!(snapshot.vms.len(), 2);
    }

    #[test]
    fn keys_are_letters_while_a_filter_is_typed() {
        let (mut screen, mut source) = (screen(), Asked(Vec::new()));
        for code in "/qz".chars().map(KeyCode::Char) {
            press(&mut screen, &mut source, code);
        }
        assert!(!screen.state.quit);
        assert_eq!(screen.state.input.as_ref().map(|input| input.text.as_str()), Some("qz"));
        press(&mut screen, &mut source, KeyCode::Enter);
        assert_eq!(screen.state.filter.as_ref().map(Filter::text), Some("qz"));
    }
}
