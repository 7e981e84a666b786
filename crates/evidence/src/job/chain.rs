//! Are a job's events the chain that they claim to be?

use std::collections::HashMap;

use crate::record::{JobEventFacts, JobEventType};
use crate::{hex_string, sha256};

/// The last event seen of a job.
#[derive(Clone, Copy, Debug)]
struct Tip {
    hash: Option<[u8; 32]>,
    ended: bool,
}

/// Holds each job's events against the one before, in ledger order. About 100 bytes a job.
#[derive(Clone, Debug, Default)]
pub struct JobChains {
    /// By the first half of SHA-256 of the job's id: ids are up to 256 bytes long.
    tips: HashMap<[u8; 16], Tip>,
    /// Events whose bodies could not be read: as many links may miss one.
    unread: u64,
}

impl JobChains {
    /// Takes the next event; what is wrong with it.
    pub fn push(&mut self, event: &JobEventFacts) -> Option<String> {
        let mut key = [0; 16];
        key.copy_from_slice(&sha256(event.job_id.as_bytes())[..16]);
        let before = self.tips.get(&key).copied();
        let tip = Tip {
            hash: event.integrity_hash,
            ended: event.event_type.is_last(),
        };
        self.tips.insert(key, tip);
        let wrong = event.flaw.map(str::to_owned).or_else(|| broken(before, event));
        if wrong.is_some() && event.flaw.is_none() && self.unread > 0 {
            // The one that is missing is named already.
            self.unread -= 1;
            return None;
        }
        wrong.map(|wrong| format!("job {}: {wrong}", event.job_id))
    }

    /// An event of which nothing can be read.
    pub fn push_unread(&mut self) {
        self.unread += 1;
    }
}

fn broken(before: Option<Tip>, event: &JobEventFacts) -> Option<String> {
    let named = event.previous_event_hash.as_deref();
    match (before, event.event_type) {
        (None, JobEventType::Created) => named.map(|_| "the first event names one before it".to_owned()),
        (None, _) => Some("the first event is not job_created".to_owned()),
        (Some(_), JobEventType::Created) => Some("the job is created a second time".to_owned()),
        (Some(tip), _) if tip.ended => Some("an event after the last one".to_owned()),
        (Some(tip), _) => {
            let expected = tip.hash.map(|hash| hex_string(&hash));
            (named != expected.as_deref())
                .then(|| "previous_event_hash is not that of the event before".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::canonical::Value;
    use crate::record::JobEvent;

    /// Created, started, progress, completed; each with its hash.
    fn chain() -> Vec<(JobEvent, String)> {
        let types = [
            JobEventType::Created,
            JobEventType::Started,
            JobEventType::Progress,
            JobEventType::Completed,
        ];
        let mut previous = None;
        types
            .into_iter()
            .enumerate()
            .map(|(n, event_type)| {
                let event = JobEvent {
                    event_id: format!("e{n}"),
                    event_type,
                    job_id: "j".into(),
                    tenant_id: "t".into(),
                    timestamp: Timestamp::UNIX_EPOCH,
                    handler: None,
                    attempt_number: 1,
                    duration_ms: None,
                    error: None,
                    payload_hash: None,
                    result_hash: None,
                    previous_event_hash: previous.clone(),
                    metadata: Value::Object(Vec::new()),
                    redactions: None,
                };
                let hash = event.integrity_hash();
                previous = Some(hash.clone());
                (event, hash)
            })
            .collect()
    }

    fn findings(events: &[(JobEvent, String)]) -> usize {
        let mut chains = JobChains::default();
        events
            .iter()
            .filter(|(event, hash)| {
                let mut facts = event.facts(hash);
                facts.flaw = (event.integrity_hash() != *hash).then_some("wrong hash");
                chains.push(&facts).is_some()
            })
            .count()
    }

    #[test]
    fn a_chain_is_whole_and_any_change_of_it_is_found() {
        let good = chain();
        assert_eq!(findings(&good), 0);
        for lost in 0..3 {
            let mut events = good.clone();
            events.remove(lost);
            assert!(findings(&events) > 0, "event {lost} deleted");
        }
        for at in 0..3 {
            let mut events = good.clone();
            events.swap(at, at + 1);
            assert!(findings(&events) > 0, "events {at} and {} swapped", at + 1);
        }
        for at in 0..3 {
            let mut events = good.clone();
            events[at].0.attempt_number = 7;
            assert!(findings(&events) > 0, "event {at} altered");
            events[at].1 = events[at].0.integrity_hash();
            assert!(findings(&events) > 0, "event {at} altered and hashed again");
        }
        let mut doubled = good.clone();
        doubled.push(good[3].clone());
        assert!(findings(&doubled) > 0);
    }

    #[test]
    fn an_event_that_cannot_be_read_brings_no_second_finding() {
        let events = chain();
        let mut chains = JobChains::default();
        assert!(chains.push(&events[0].0.facts(&events[0].1)).is_none());
        chains.push_unread();
        assert!(chains.push(&events[2].0.facts(&events[2].1)).is_none());
        assert!(chains.push(&events[3].0.facts(&events[3].1)).is_none());
    }
}
