//! The real terminal and the loop: a tick, a key or a signal, then a new screen.
//!
//! The terminal is restored when the loop ends, on SIGTERM, SIGINT and SIGHUP, on an error and on a
//! panic.

use std::{io::stdout, time::Duration};

use anyhow::{Context as _, Result};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{
    keymap,
    state::State,
    view::{self, Rows},
};
use crate::{
    model::{aggregate::Aggregate, snapshot::Snapshot},
    source::{Due, Source},
};

/// Shows `source` until the user quits or a signal comes.
///
/// # Errors
/// When the terminal cannot be used or the source fails.
pub async fn run(source: &mut dyn Source, every: Duration) -> Result<()> {
    let mut signals = Signals::new()?;
    // Puts a hook in front of the panic's message that restores the terminal first.
    let mut terminal = ratatui::try_init().context("the terminal cannot be set up")?;
    let result = events(&mut terminal, source, every, &mut signals).await;
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

async fn events(
    terminal: &mut DefaultTerminal,
    source: &mut dyn Source,
    every: Duration,
    signals: &mut Signals,
) -> Result<()> {
    let mut state = State::default();
    let mut aggregate = Aggregate::new();
    let mut snapshot: Option<Snapshot> = None;
    let mut keys = EventStream::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut rows = Rows::default();
    while !state.quit {
        // A recording waits where a machine does not.
        let stands = state.over || state.paused && source.due() != Due::Any;
        tokio::select! {
            _ = ticks.tick(), if !stands => {
                // Paused, slots are still given back, or new VMs would find none.
                let next = aggregate.apply(source.sample()?);
                match source.due() {
                    Due::Any => {}
                    Due::In(gap) => ticks.reset_after(gap),
                    Due::Never => state.over = true,
                }
                if state.paused {
                    continue;
                }
                snapshot = Some(next);
            }
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if let Some(action) = keymap::action(key) {
                        state.apply(action, rows.page);
                        state.clamp(rows.total.max(1));
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
                // The terminal is gone.
                None => return Ok(()),
            },
            () = signals.any() => return Ok(()),
        }
        terminal
            .draw(|frame| rows = view::draw(frame, snapshot.as_ref(), &state))
            .context("the terminal cannot be written")?;
    }
    Ok(())
}

/// Whether stdin and stdout are a terminal.
#[must_use]
pub fn is_available() -> bool {
    use std::io::IsTerminal as _;
    stdout().is_terminal() && std::io::stdin().is_terminal()
}
