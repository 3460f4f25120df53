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
    side::Side,
    state::{Choices, Rows, Views},
    theme::Theme,
};
use crate::{model::filter::Filter, source::Due};

/// Shows `side` every `every`, rows as `filter` says, until the user quits or a signal comes.
///
/// # Errors
/// When the terminal cannot be used or the source fails.
pub async fn run<S: Side>(side: S, every: Duration, filter: Option<Filter>) -> Result<()> {
    let mut signals = Signals::new()?;
    let theme = Theme::from_env(std::env::var_os("NO_COLOR").as_deref());
    let screen = Screen {
        side,
        state: Choices { every, filter, theme, ..Choices::default() },
        snapshot: None,
        rows: Rows::default(),
        detached: false,
    };
    // Puts a hook in front of the panic's message that restores the terminal first.
    let mut terminal = ratatui::try_init().context("the terminal cannot be set up")?;
    let result = screen.events(&mut terminal, &mut signals).await;
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
struct Screen<S: Side> {
    side: S,
    state: Choices<S::Views>,
    snapshot: Option<S::Snapshot>,
    /// What was drawn last.
    rows: Rows,
    /// The source has let go of the kernel, and what was drawn last stays.
    detached: bool,
}

impl<S: Side> Screen<S> {
    async fn events(mut self, terminal: &mut DefaultTerminal, signals: &mut Signals) -> Result<()> {
        let mut keys = EventStream::new();
        let mut every = self.state.every;
        let mut ticks = ticks(Instant::now(), every);
        let mut between = S::BETWEEN.map(|every| self::ticks(Instant::now(), every));
        while !self.state.quit {
            // A recording waits where a machine does not.
            let stands = self.state.over
                || self.detached
                || self.state.paused && self.side.due() != Due::Any;
            tokio::select! {
                _ = ticks.tick(), if !stands => {
                    // Paused, slots are still given back, or new VMs would find none.
                    let next = self.side.next()?;
                    match self.side.due() {
                        Due::Any => {}
                        Due::In(gap) => ticks.reset_after(gap),
                        Due::Never => self.state.over = true,
                    }
                    if self.state.paused {
                        continue;
                    }
                    self.snapshot = Some(next);
                }
                () = turn(between.as_mut()) => {
                    self.side.between()?;
                    continue;
                }
                event = keys.next() => match event {
                    Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                        self.key(key)?;
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
                .draw(|frame| self.rows = S::draw(frame, self.snapshot.as_ref(), &self.state))
                .context("the terminal cannot be written")?;
            self.state.settle(&self.rows);
        }
        Ok(())
    }

    fn key(&mut self, key: KeyEvent) -> Result<()> {
        if self.state.input.is_some() {
            if let Some(edit) = keymap::edit(key) {
                self.state.edit(edit);
            }
            return Ok(());
        }
        let Some(action) = keymap::action(key, S::Views::SIDE) else { return Ok(()) };
        self.state.apply(action, &self.rows);
        // Detached, nothing is counted from now on, and what was counted stays.
        if std::mem::take(&mut self.state.reset) && !self.detached {
            self.snapshot = self.side.reset()?;
        }
        if self.state.detached != self.detached {
            self.detached = !self.side.attach(!self.state.detached)?;
            self.state.detached = self.detached;
            if !self.detached {
                self.snapshot = None;
            }
        }
        self.side.look_into(self.snapshot.as_ref(), &self.state);
        Ok(())
    }
}

/// Waits for the next tick; for ever where there are none.
pub async fn turn(ticks: Option<&mut Interval>) {
    match ticks {
        Some(ticks) => _ = ticks.tick().await,
        None => std::future::pending().await,
    }
}

/// Ticks from `first` on; one that nobody waited for is not made up for.
pub fn ticks(first: Instant, every: Duration) -> Interval {
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
    use crate::{
        model::{
            sample::{Sample, VmKey},
            testing::samples,
        },
        source::Source,
        tui::side::Host,
    };

    /// Delivers the same sample again and again, and notes what it is asked for.
    struct Asked(Vec<Option<VmKey>>, Vec<bool>);

    impl Source for Asked {
        fn sample(&mut self) -> Result<Sample> {
            samples().pop().context("no sample")
        }

        fn detail(&mut self, vm: Option<VmKey>) {
            self.0.push(vm);
        }

        fn attach(&mut self, attach: bool) -> Result<bool> {
            self.1.push(attach);
            Ok(attach)
        }
    }

    /// A screen on which the second VM is chosen.
    fn screen(source: &mut Asked) -> Screen<Host<'_>> {
        let mut side = Host::new(source);
        let snapshot = Some(side.next().unwrap());
        let mut state = Choices::default();
        let rows = Rows { id: Some([2, 0, 0]), ..Rows::default() };
        state.settle(&rows);
        Screen { side, state, snapshot, rows, detached: false }
    }

    fn press(screen: &mut Screen<Host<'_>>, code: KeyCode) {
        screen.key(code.into()).unwrap();
    }

    #[test]
    fn the_source_is_told_which_vm_is_looked_into() {
        let mut source = Asked(Vec::new(), Vec::new());
        let mut screen = screen(&mut source);
        let key = screen.snapshot.as_ref().unwrap().vms[1].key;
        for code in [KeyCode::Enter, KeyCode::Down, KeyCode::Esc, KeyCode::Esc] {
            press(&mut screen, code);
        }
        assert_eq!(source.0, [Some(key), None]);
    }

    #[test]
    fn a_reset_shows_nothing_counted_at_once() {
        let mut source = Asked(Vec::new(), Vec::new());
        let mut screen = screen(&mut source);
        press(&mut screen, KeyCode::Char('z'));
        let snapshot = screen.snapshot.unwrap();
        assert_eq!(snapshot.since_reset, Some(Duration::ZERO));
        assert_eq!(snapshot.counts.iter().count(), 0);
        assert_eq!(snapshot.vms.len(), 2);
    }

    #[test]
    fn what_was_counted_stays_on_the_screen_while_detached_and_begins_anew_after_it() {
        let mut source = Asked(Vec::new(), Vec::new());
        let mut screen = screen(&mut source);
        press(&mut screen, KeyCode::Char('D'));
        assert!(screen.detached && screen.snapshot.is_some());
        press(&mut screen, KeyCode::Char('z'));
        assert_eq!(screen.snapshot.as_ref().unwrap().since_reset, None);
        press(&mut screen, KeyCode::Char('D'));
        assert!(!screen.detached && screen.snapshot.is_none());
        assert_eq!(source.1, [false, true]);
    }

    #[test]
    fn keys_are_letters_while_a_filter_is_typed() {
        let mut source = Asked(Vec::new(), Vec::new());
        let mut screen = screen(&mut source);
        for code in "/qz".chars().map(KeyCode::Char) {
            press(&mut screen, code);
        }
        assert!(!screen.state.quit);
        assert_eq!(screen.state.input.as_ref().map(|input| input.text.as_str()), Some("qz"));
        press(&mut screen, KeyCode::Enter);
        assert_eq!(screen.state.filter.as_ref().map(Filter::text), Some("qz"));
    }
}
