//! How fast, and for whom next: connections and rates are bounded per relay, merchant and recipient domain, and no merchant's
//! many reminders delay another's few. In memory only: what is bounded here is politeness, not a promise.
//!
//! A rate is a row of slots (GCRA): who comes early is put back until its slot and passes when it comes again. The slots of a
//! process are as far apart as there are processes that send, so that the rate holds for all of them together.

use crate::config::Limits;
use kernel::MerchantId;
use runtime::Merchant;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So much of a rate may go at once after a pause.
const BURST: Duration = Duration::from_secs(1);
/// After the first temporary refusal of a domain; doubled with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of a domain.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A server that hangs up with 421 wants to be left alone for longer than one that greylists.
const GOODBYE_PAUSE: Duration = Duration::from_secs(30);
/// Deliveries of a merchant in work for each connection that it may have: the others wait for one. Fewer than the half of
/// what may wait in all, below which more is claimed: whatever holds one merchant up, others come to their turn.
pub const IN_WORK: u32 = 6;
/// With more keys than that those that say nothing any more are forgotten.
const MOST_KEYS: usize = 50_000;

/// Why a delivery whose time has come waits: for its turn.
pub const RATE: &str = "rate";
/// The same: the circuit breaker of the merchant's sending domain is open.
pub const BREAKER: &str = "breaker_open";

/// The bounds of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    connections: u32,
    /// Processes that send, this one included.
    processes: AtomicU32,
    state: Mutex<State>,
    /// A connection is free again, or another delivery waits for one.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The next free slot.
    slots: HashMap<Key, Instant>,
    /// Deliveries in work.
    in_work: HashMap<MerchantId, u32>,
    /// Connections in use for each merchant.
    merchants: HashMap<MerchantId, u32>,
    /// Connections in use for each recipient domain.
    domains: HashMap<String, u32>,
    /// Temporary refusals in a row, and until when the domain is left alone.
    pauses: HashMap<String, (u32, Instant)>,
    /// Sending domains whose circuit breaker is open.
    broken: HashSet<String>,
}

/// What a bound is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Relay,
    Merchant(MerchantId),
    Domain(String),
}

/// A delivery has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// For how long, in real time.
    pub time: Duration,
    /// Why.
    pub reason: &'static str,
}

/// A delivery is in work until this is dropped.
#[derive(Debug)]
pub struct Place {
    pace: Pace,
    merchant: MerchantId,
    domain: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        release(&mut self.pace.state().in_work, &self.merchant);
    }
}

impl Place {
    /// Takes a connection, however many there are.
    pub fn occupy(&self) -> InUse {
        let (pace, merchant, domain) = (self.pace.clone(), self.merchant.clone(), self.domain.clone());
        let in_use = InUse { pace, merchant, domain };
        in_use.count();
        in_use
    }
}

/// A connection is in use until this is dropped.
#[derive(Debug)]
pub struct InUse {
    pace: Pace,
    merchant: MerchantId,
    domain: String,
}

impl InUse {
    fn count(&self) {
        let mut state = self.pace.state();
        count(&mut state.merchants, &self.merchant);
        count(&mut state.domains, &self.domain);
    }

    fn discount(&self) {
        let mut state = self.pace.state();
        release(&mut state.merchants, &self.merchant);
        release(&mut state.domains, &self.domain);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.discount();
        self.pace.0.freed.notify_one();
    }
}

fn count<K: Hash + Eq + Clone>(counts: &mut HashMap<K, u32>, key: &K) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => _ = counts.insert(key.clone(), 1),
    }
}

fn release<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Pace {
    /// The bounds of a process with so many connections to its relay.
    pub fn new(limits: Limits, connections: u16) -> Self {
        let (processes, state) = (AtomicU32::new(1), Mutex::default());
        Self(Arc::new(Inner { limits, connections: connections.into(), processes, state, freed: Notify::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// The circuit breakers of these sending domains are open, and no others.
    pub fn breakers(&self, open: impl IntoIterator<Item = String>) {
        self.state().broken = open.into_iter().collect();
    }

    /// Whether the circuit breaker of a merchant's sending domain is open.
    pub fn is_broken(&self, merchant: &Merchant) -> bool {
        let state = self.state();
        !state.broken.is_empty() && state.broken.contains(&domain_of(&merchant.file.sender.email))
    }

    /// So many processes send now.
    pub fn share_with(&self, processes: u32) {
        self.0.processes.store(processes.max(1), Ordering::Relaxed);
    }

    /// How many deliveries of each merchant to claim next, at most `room` in all: the same number for each, none beyond what a
    /// merchant may have in work. `turn` says who comes first where there is not enough for all.
    pub fn shares(&self, merchants: &[MerchantId], room: usize, turn: usize) -> Vec<(MerchantId, i64)> {
        let state = self.state();
        let most = IN_WORK * self.most(self.0.limits.merchant_connections_percent);
        let free = |merchant: &MerchantId| most.saturating_sub(state.in_work.get(merchant).copied().unwrap_or(0));
        // A third at a time: one by one they would cost as much as many.
        let enough = |free: u32| free >= most.div_ceil(3);
        let open = merchants.iter().map(|m| (m, free(m))).filter(|(_, free)| enough(*free));
        let mut open: Vec<_> = open.map(|(m, free)| (m.clone(), i64::from(free))).collect();
        let first = if open.is_empty() { 0 } else { turn % open.len() };
        open.rotate_left(first);
        open.truncate(room);
        let mut left = room as i64;
        for n in 0..open.len() {
            let remaining = (open.len() - n) as i64;
            if let Some((_, share)) = open.get_mut(n) {
                // Rounded up: what one merchant does not need goes to those after it.
                *share = (*share).min((left + remaining - 1) / remaining);
                left -= *share;
            }
        }
        open
    }

    fn most(&self, percent: u32) -> u32 {
        (self.0.connections * percent).div_ceil(100).max(1)
    }

    /// Gives a delivery a place, or says how long to wait. One that `has_slot` has waited for its turn already.
    pub fn admit(&self, merchant: &MerchantId, address: &str, has_slot: bool) -> Result<Place, Wait> {
        let domain = domain_of(address);
        let now = Instant::now();
        let limits = &self.0.limits;
        let mut state = self.state();
        if let Some((_, until)) = state.pauses.get(&domain)
            && *until > now
        {
            return Err(Wait { time: *until - now, reason: "domain_paused" });
        }
        if !has_slot {
            let rates = [
                (Key::Relay, limits.relay_per_second),
                (Key::Merchant(merchant.clone()), limits.merchant_per_second),
                (Key::Domain(domain.clone()), limits.domain_per_second),
            ];
            let processes = self.0.processes.load(Ordering::Relaxed);
            let limited = rates.into_iter().filter(|(_, rate)| *rate > 0);
            let time = limited.map(|(key, rate)| state.slot(key, Duration::from_secs(1) * processes / rate, now)).max();
            if let Some(time) = time.filter(|time| !time.is_zero()) {
                return Err(Wait { time, reason: RATE });
            }
        }
        count(&mut state.in_work, merchant);
        Ok(Place { pace: self.clone(), merchant: merchant.clone(), domain })
    }

    /// The first whose merchant and domain may have one connection more.
    fn first_that_may<'a>(&self, mut places: impl Iterator<Item = &'a Place>) -> Option<usize> {
        let limits = &self.0.limits;
        let most = [limits.merchant_connections_percent, limits.domain_connections_percent].map(|p| self.most(p));
        let state = self.state();
        let is_full = |connected: Option<&u32>, most| connected.is_some_and(|count| *count >= most);
        // Many of the same merchant wait one behind another, as a rule, and somebody looks whenever one more does.
        let mut full = None;
        places.position(|place| {
            if full == Some(&place.merchant) {
                return false;
            }
            if is_full(state.merchants.get(&place.merchant), most[0]) {
                full = Some(&place.merchant);
                return false;
            }
            !is_full(state.domains.get(&place.domain), most[1])
        })
    }

    /// A domain's server said not now; `goodbye`: and hung up.
    pub fn back_off(&self, address: &str, goodbye: bool) {
        let (mut state, now) = (self.state(), Instant::now());
        let (refusals, until) = state.pauses.entry(domain_of(address)).or_insert((0, now));
        // Those on their way at the same time say the same thing once.
        if *refusals > 0 && *until > now {
            return;
        }
        let pause = if goodbye { GOODBYE_PAUSE } else { FIRST_PAUSE };
        *until = now + (pause * 2_u32.pow((*refusals).min(10))).min(LONGEST_PAUSE);
        *refusals += 1;
        forget(&mut state.pauses, |(_, until)| *until + LONGEST_PAUSE < now);
    }

    /// A domain's server took a mail.
    pub fn works(&self, address: &str) {
        let mut state = self.state();
        if !state.pauses.is_empty() {
            state.pauses.remove(&domain_of(address));
        }
    }
}

/// Deliveries that wait for a connection, first come first served among those that may have one.
#[derive(Debug)]
pub struct Queue<T> {
    pace: Pace,
    waiting: Mutex<VecDeque<(T, Place)>>,
    /// One less waits.
    taken: Notify,
}

impl<T> Queue<T> {
    /// Nothing waits.
    pub fn new(pace: Pace) -> Self {
        Self { pace, waiting: Mutex::default(), taken: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(T, Place)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many wait.
    pub fn len(&self) -> usize {
        self.waiting().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Waits until no more than so many wait. For one caller.
    pub async fn is_down_to(&self, few: usize) {
        while self.len() > few {
            self.taken.notified().await;
        }
    }

    /// One more waits.
    pub fn push(&self, delivery: T, place: Place) {
        self.waiting().push_back((delivery, place));
        self.pace.0.freed.notify_one();
    }

    /// One that was taken waits again, before all others.
    pub fn give_back(&self, delivery: T, place: Place) {
        self.waiting().push_front((delivery, place));
        self.pace.0.freed.notify_one();
    }

    /// Waits for the next one that may have a connection.
    pub async fn pop(&self) -> (T, Place, InUse) {
        loop {
            let freed = self.pace.0.freed.notified();
            if let Some(next) = self.try_pop() {
                return next;
            }
            freed.await;
        }
    }

    /// The next one for a connection that is about to be free: it takes over its use, if one waits that may have it then and
    /// `may_follow`.
    pub fn follow(&self, in_use: InUse, may_follow: impl Fn(&T) -> bool) -> Result<(T, Place, InUse), InUse> {
        let mut waiting = self.waiting();
        if waiting.is_empty() {
            return Err(in_use);
        }
        // Whoever takes a connection holds what waits: nobody sees what is between these two.
        in_use.discount();
        let next = self.take(&mut waiting, may_follow);
        in_use.count();
        next.ok_or(in_use)
    }

    fn try_pop(&self) -> Option<(T, Place, InUse)> {
        self.take(&mut self.waiting(), |_| true)
    }

    fn take(&self, waiting: &mut VecDeque<(T, Place)>, may: impl Fn(&T) -> bool) -> Option<(T, Place, InUse)> {
        let n = self.pace.first_that_may(waiting.iter().map(|(_, place)| place))?;
        if !waiting.get(n).is_some_and(|(delivery, _)| may(delivery)) {
            return None;
        }
        let (delivery, place) = waiting.remove(n)?;
        let in_use = place.occupy();
        self.taken.notify_one();
        // Whoever else waits may go on too.
        if !waiting.is_empty() {
            self.pace.0.freed.notify_one();
        }
        Some((delivery, place, in_use))
    }
}

impl State {
    /// Takes the next slot of a row whose slots are `apart`; returns how long it is until then.
    fn slot(&mut self, key: Key, apart: Duration, now: Instant) -> Duration {
        forget(&mut self.slots, |slot| *slot + BURST < now);
        // Who has not used its slots has some of them left.
        let earliest = now.checked_sub(BURST.saturating_sub(apart)).unwrap_or(now);
        let slot = self.slots.get(&key).map_or(earliest, |slot| (*slot).max(earliest));
        self.slots.insert(key, slot + apart);
        slot.saturating_duration_since(now)
    }
}

fn forget<K: Hash + Eq, V>(map: &mut HashMap<K, V>, stale: impl Fn(&V) -> bool) {
    if map.len() > MOST_KEYS {
        map.retain(|_, value| !stale(value));
    }
}

/// The domain of an address, lower-case.
pub fn domain_of(address: &str) -> String {
    address.rsplit_once('@').map_or("", |(_, domain)| domain).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merchant(name: &str) -> MerchantId {
        name.parse().unwrap()
    }

    fn pace(limits: Limits) -> Pace {
        Pace::new(limits, 8)
    }

    #[test]
    fn each_merchant_gets_its_share() {
        let pace = pace(Limits::default());
        let shares = |names: &[&str], room, turn| -> Vec<(String, i64)> {
            let merchants: Vec<_> = names.iter().map(|n| merchant(n)).collect();
            pace.shares(&merchants, room, turn).into_iter().map(|(m, n)| (m.to_string(), n)).collect()
        };
        let expected = |list: &[(&str, i64)]| list.iter().map(|(m, n)| ((*m).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(shares(&["a", "b"], 8, 0), expected(&[("a", 4), ("b", 4)]));
        assert_eq!(shares(&["a", "b", "c"], 8, 1), expected(&[("b", 3), ("c", 3), ("a", 2)]), "in turns");
        assert_eq!(shares(&["a", "b", "c"], 2, 2), expected(&[("c", 1), ("a", 1)]), "there is room for two");
        assert_eq!(shares(&["a"], 100, 0), expected(&[("a", 36)]), "some connections are left for others");
        assert_eq!(shares(&[], 8, 3), []);

        let places: Vec<_> =
            (0..24).map(|n| pace.admit(&merchant("a"), &format!("x@{n}.example"), false).unwrap()).collect();
        assert_eq!(shares(&["a", "b"], 32, 0), expected(&[("a", 12), ("b", 20)]), "what one cannot use is the other's");
        let one_more = pace.admit(&merchant("a"), "x@more.example", false).unwrap();
        assert_eq!(shares(&["a", "b"], 32, 0), expected(&[("b", 32)]), "a few are not worth a look");
        drop(one_more);
        drop(places);
        assert_eq!(shares(&["a", "b"], 8, 0), expected(&[("a", 4), ("b", 4)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_a_row_of_slots() {
        let pace = pace(Limits { domain_per_second: 10, ..Limits::default() });
        pace.share_with(2);
        let a = merchant("a");
        let waits = |n| -> Vec<u128> {
            let wait = |_| pace.admit(&a, "x@Slow.example", false).err().map_or(0, |wait| wait.time.as_millis());
            (0..n).map(wait).collect()
        };
        // Ten a second for two processes: five for this one, of which a second's worth may go at once.
        assert_eq!(waits(7), [0, 0, 0, 0, 0, 200, 400]);
        assert!(pace.admit(&a, "x@slow.example", true).is_ok(), "it has waited for its slot");
        assert!(pace.admit(&a, "x@other.example", false).is_ok(), "others need not wait");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(waits(1), [100], "slots are given once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_domain_that_says_not_now_is_left_alone_for_longer_each_time() {
        let pace = pace(Limits::default());
        let wait = || pace.admit(&merchant("a"), "x@grey.example", false).err().map(|wait| wait.time.as_secs());
        for expected in [1, 2, 4] {
            pace.back_off("y@grey.example", false);
            pace.back_off("z@grey.example", false);
            assert_eq!(wait(), Some(expected), "two at the same time are one");
            tokio::time::advance(Duration::from_secs(expected)).await;
            assert_eq!(wait(), None);
        }
        pace.works("y@grey.example");
        pace.back_off("y@grey.example", true);
        assert_eq!(wait(), Some(30), "a goodbye weighs more, and success is remembered");
        assert!(pace.admit(&merchant("a"), "x@other.example", false).is_ok());
    }

    #[tokio::test]
    async fn neither_a_merchant_nor_a_domain_can_have_all_connections() {
        let pace = pace(Limits { domain_per_second: 0, ..Limits::default() });
        let queue = Queue::new(pace.clone());
        let push = |name: &str, address: String| {
            queue.push(format!("{name} {address}"), pace.admit(&merchant(name), &address, false).unwrap());
        };
        let pop = || queue.try_pop().map(|(delivery, _, in_use)| (delivery, in_use));
        (0..7).for_each(|n| push("a", format!("x@{n}.example")));
        push("b", "x@b.example".to_owned());
        let mut open: Vec<_> = (0..6).map(|_| pop().unwrap()).collect();
        let (b, _in_use) = pop().unwrap();
        assert_eq!(b, "b x@b.example", "of eight connections a may have six");
        assert!(pop().is_none());
        open.pop();
        assert_eq!(pop().unwrap().0, "a x@6.example");

        let queue = Queue::new(pace.clone());
        drop(open);
        for n in 0..5 {
            queue.push(n, pace.admit(&merchant(&format!("m{n}")), "x@stuck.example", false).unwrap());
        }
        let mut open: Vec<_> = (0..4).map(|_| queue.try_pop().unwrap()).collect();
        assert!(queue.try_pop().is_none(), "a domain may have half of them");
        let waiting = queue.pop();
        open.pop();
        assert_eq!(waiting.await.0, 4);
    }

    #[tokio::test]
    async fn who_follows_on_a_connection_takes_over_its_use() {
        let pace = pace(Limits { domain_per_second: 0, ..Limits::default() });
        let queue = Queue::new(pace.clone());
        let in_use = || {
            let counts = &pace.state().domains;
            ["stuck.example", "b.example"].map(|domain| counts.get(domain).copied().unwrap_or(0))
        };
        for n in 0..6 {
            queue.push(n, pace.admit(&merchant(&format!("m{n}")), "x@stuck.example", false).unwrap());
        }
        let mut open: Vec<_> = (0..4).map(|_| queue.try_pop().unwrap()).collect();
        let (_, first_place, first) = open.remove(0);
        let (n, place, second) = queue.follow(first, |_| true).unwrap();
        assert_eq!((n, in_use()), (4, [4, 0]), "as many connections as before, although the domain has no more");
        let second = queue.follow(second, |_| false).unwrap_err();
        assert_eq!((queue.len(), in_use()), (1, [4, 0]), "whoever has to be waited for does not follow");

        // The one that was to be followed takes its time: it counts itself again.
        queue.give_back(n, place);
        drop(second);
        let first = first_place.occupy();
        assert_eq!(in_use(), [4, 0]);
        assert!(queue.try_pop().is_none());
        open.clear();
        assert_eq!(queue.try_pop().unwrap().0, 4, "before all that have come since");

        let queue = Queue::new(pace.clone());
        let first = queue.follow(first, |_| true).unwrap_err();
        queue.push(9, pace.admit(&merchant("b"), "x@b.example", false).unwrap());
        let (_, _place, _in_use) = queue.follow(first, |_| true).unwrap();
        assert_eq!(in_use(), [0, 1], "it counts for whom it is used");
    }
}
