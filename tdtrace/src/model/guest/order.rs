//! Events in the order in which the #VEs began.
//!
//! The programs send an event when its #VE ends, and one that interrupts another ends first. So a batch
//! is held back until the next one is there: a #VE takes microseconds, a batch milliseconds.

use tdtrace_common::guest::VeEvent;

/// Events held back at most; more are passed on as they are.
const HELD: usize = 1 << 18;

/// Holds one batch back.
#[derive(Debug, Default)]
pub struct Order {
    /// Events that wait, each with the number that it is sorted by.
    held: Vec<(u64, VeEvent)>,
    /// The number of the event that came last.
    last: u64,
}

impl Order {
    /// Takes a batch as it came and gives those that nothing comes before any more.
    #[must_use]
    pub fn push(&mut self, batch: impl IntoIterator<Item = VeEvent>) -> Vec<VeEvent> {
        let limit = self.held.last().map_or(0, |(number, _)| *number);
        for event in batch {
            // One whose beginning was not seen stays behind what came before it.
            self.last = if event.sequence == 0 { self.last } else { event.sequence };
            self.held.push((self.last, event));
        }
        self.held.sort_by_key(|(number, _)| *number);
        let ready = self.held.partition_point(|(number, _)| *number <= limit);
        let ready = ready.max(self.held.len().saturating_sub(HELD));
        self.held.drain(..ready).map(|(_, event)| event).collect()
    }

    /// All that are left.
    #[must_use]
    pub fn finish(&mut self) -> Vec<VeEvent> {
        std::mem::take(&mut self.held).into_iter().map(|(_, event)| event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, ip: u64) -> VeEvent {
        VeEvent { sequence, ip, ..VeEvent::default() }
    }

    fn ips(events: &[VeEvent]) -> Vec<u64> {
        events.iter().map(|event| event.ip).collect()
    }

    #[test]
    fn a_nested_event_that_ended_first_comes_after_what_it_interrupted() {
        let mut order = Order::default();
        assert!(order.push([event(2, 2), event(1, 1)]).is_empty());
        assert_eq!(ips(&order.push([event(4, 4)])), [1, 2]);
        assert_eq!(ips(&order.push([event(3, 3), event(5, 5)])), [3, 4]);
        assert_eq!(ips(&order.finish()), [5]);
        assert!(order.finish().is_empty());
    }

    #[test]
    fn an_event_without_a_beginning_stays_where_it_came() {
        let mut order = Order::default();
        let _ = order.push([event(7, 1), event(0, 2), event(8, 3)]);
        assert_eq!(ips(&order.finish()), [1, 2, 3]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut order = Order::default();
        let many = (1..=HELD as u64 + 5).map(|sequence| event(sequence, sequence));
        assert_eq!(order.push(many).len(), 5);
    }
}
