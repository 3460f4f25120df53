//! Verdicts on sites: once for each, and again only when more is known of it. Pure.

use std::{collections::HashMap, sync::Arc};

use super::snapshot::{Object, Site};
use crate::{
    decode::{
        gpa::Sharing,
        qualification::{self, Io},
    },
    sites::{Site as Code, devices::Device},
    verdict::{self, Access, Target, Verdict},
};

/// What a verdict was made of.
#[derive(Debug)]
struct Made {
    target: Target,
    /// Kept, so that no other code can come to lie at its address and be taken for it.
    code: Option<Arc<Code>>,
    bytes: Vec<u8>,
}

impl Made {
    /// Whether it would be made of the same now. Code that is shared is the same without a look.
    fn is_of(&self, site: &Site, target: &Target) -> bool {
        self.target == *target && self.bytes == site.bytes && self.code == site.code
    }
}

/// Reason, address, and whether it is a process's.
type Key = (u32, Option<u64>, bool);

/// Verdicts on the sites of the last sample.
#[derive(Debug, Default)]
pub(super) struct Judged {
    verdicts: HashMap<Key, (Made, Arc<Verdict>)>,
}

impl Judged {
    /// The verdict on `site`, of MMIO and port I/O; `worst` is the one of its objects that decides.
    pub(super) fn of(
        &mut self,
        site: &Site,
        worst: Option<(Object, Option<&Device>)>,
    ) -> Option<Arc<Verdict>> {
        let target = match (site.reason, worst) {
            (30, Some((object, _))) => Target::Port(io(object)),
            (30, None) => Target::Port(None),
            (48, worst) => memory(worst),
            _ => return None,
        };
        let key = (site.reason, site.ip, site.user);
        if let Some((made, verdict)) = self.verdicts.get(&key)
            && made.is_of(site, &target)
        {
            return Some(Arc::clone(verdict));
        }
        let verdict = Arc::new(judge(site, target.clone()));
        let made = Made { target, code: site.code.clone(), bytes: site.bytes.clone() };
        self.verdicts.insert(key, (made, Arc::clone(&verdict)));
        Some(verdict)
    }

    /// Forgets verdicts on sites that are no more: a recording may have others in each sample.
    pub(super) fn keep(&mut self, is_there: impl Fn(&Key) -> bool) {
        self.verdicts.retain(|key, _| is_there(key));
    }
}

fn judge(site: &Site, target: Target) -> Verdict {
    let code: Option<&Code> = site.code.as_deref();
    verdict::judge(&Access {
        bytes: &site.bytes,
        target,
        chain: code.and_then(|code| code.chain.as_deref()),
        symbol: code.and_then(|code| code.function.as_deref()),
        user: site.user,
        in_exception_table: code.and_then(|code| code.in_exception_table),
    })
}

/// The qualification of a port access (bits as [`qualification::io`] has them).
fn io(object: Object) -> Option<Io> {
    let Object::Port { port, direction, size, string } = object else { return None };
    let size = u64::from(size?.checked_sub(1)?);
    let value = u64::from(port) << 16 | u64::from(string) << 4 | size;
    Some(qualification::io(value | u64::from(direction == "in") << 3))
}

fn memory(worst: Option<(Object, Option<&Device>)>) -> Target {
    let Some((Object::Page { shared, .. }, device)) = worst else { return Target::MEMORY };
    let sharing = match shared {
        Some(true) => Sharing::Shared,
        Some(false) => Sharing::Private,
        None => Sharing::Unknown,
    };
    let ram = sharing != Sharing::Private && device.is_some_and(|device| device.ram);
    Target::Memory { gla: None, sharing, ram }
}

#[cfg(test)]
mod tests {
    use crate::model::guest::{aggregate::GuestAggregate, sample::GuestSample, testing};

    #[test]
    fn verdicts_are_kept_only_of_sites_that_there_are() {
        let mut sample = testing::sample(20, 1);
        let mut aggregate = GuestAggregate::new();
        let judged = |aggregate: &GuestAggregate| aggregate.judged.verdicts.len();
        let verdicts = |aggregate: &mut GuestAggregate, sample: &GuestSample| {
            aggregate.apply(sample).sites.iter().filter(|site| site.verdict.is_some()).count()
        };
        let before = verdicts(&mut aggregate, &sample);
        assert!(before > 0 && judged(&aggregate) == before);
        for (key, _) in &mut sample.places {
            key.ip ^= 1 << 20;
        }
        assert_eq!(verdicts(&mut aggregate, &sample), before);
        assert_eq!(judged(&aggregate), before);
    }
}
