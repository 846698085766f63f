//! What planning needs besides a case: merchants, calendars, the campaigns in force, and every version that a running case
//! may be on.

use crate::config::{self, Campaigns};
use crate::domain::CaseState;
use crate::enrolment;
use crate::store;
use bus::{Failure, Work};
use campaign::{Assign, Calendars, Campaign, Ramp, Step};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use kernel::{MerchantId, Segment, SharedClock};
use payer::experiment::{Knowledge, week_of};
use runtime::{Host, Merchant, Merchants};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// Campaigns by file name and version.
pub type Versions = HashMap<(String, String), Arc<Campaign>>;

/// Late invoices with their payers' date of today, and the campaign that they follow.
type Late<'a> = (Arc<Campaign>, Vec<(Date, &'a mut CaseState)>);

/// With which probability each arm of a step is drawn for cases opened in one week. It is learned from what was known before
/// that week and kept, so that all replicas draw with the same probabilities, however late.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Where a segment has nothing of its own.
    pub all: Vec<f64>,
    /// By segment.
    pub segments: BTreeMap<Segment, Vec<f64>>,
}

/// Merchant, campaign, its version, step, and the Monday of the week.
pub type PolicyKey = (MerchantId, String, String, String, Date);

/// Policies of weeks.
#[derive(Debug, Default)]
pub struct Policies(HashMap<PolicyKey, Policy>);

impl Policies {
    /// The propensities of a step's arms for a case.
    pub fn propensities(&self, case: &CaseState, step: &Step, segment: Segment) -> Option<&[f64]> {
        let policy = self.0.get(&policy_key(case, step))?;
        Some(policy.segments.get(&segment).unwrap_or(&policy.all))
    }
}

fn policy_key(case: &CaseState, step: &Step) -> PolicyKey {
    let week = week_of(TimeZone::UTC.to_datetime(case.opened_at).date());
    let (campaign, version) = (case.campaign.clone(), case.campaign_version.clone());
    (case.merchant.clone(), campaign, version, step.key.clone(), week)
}

/// What new cases begin on.
#[derive(Debug, Default)]
pub struct InForce {
    /// By file name.
    pub campaigns: BTreeMap<String, Arc<Campaign>>,
    /// Holidays.
    pub calendars: Calendars,
    /// Some campaign asks what customers owe altogether.
    pub asks_balance: bool,
    /// Some campaign lets steps wait for those of other invoices.
    pub waits: bool,
    /// Campaigns of which some version has steps that are moved as suits the payer.
    pub adaptive: BTreeSet<String>,
}

impl InForce {
    /// Of campaigns and calendars; `all` are all versions that a running case may be on.
    pub fn new(campaigns: BTreeMap<String, Arc<Campaign>>, calendars: Calendars, all: &Versions) -> Self {
        let asks_balance = all.values().any(|c| c.asks_balance());
        let waits = all.values().any(|c| c.consolidation.wait_days > 0);
        let is_adaptive = |((name, _), c): (&(String, String), &Arc<Campaign>)| c.is_adaptive().then(|| name.clone());
        let adaptive = all.iter().filter_map(is_adaptive).collect();
        Self { campaigns, calendars, asks_balance, waits, adaptive }
    }

    /// Whether what is known of a payer may move a step of a campaign of this merchant's.
    pub fn advises(&self, order: &[String]) -> bool {
        order.iter().any(|name| self.adaptive.contains(name))
    }

    /// Whether a segment may choose between campaigns, or between one and none.
    pub fn chooses(&self, order: &[String]) -> bool {
        order.len() > 1 || order.iter().any(|name| self.campaigns.get(name).is_some_and(|c| !c.audience.is_empty()))
    }
}

/// What rules are read from: a service's host has it, and so has an operator's command.
#[derive(Clone)]
pub struct Sources {
    /// The scheduler's schema.
    pub pool: PgPool,
    /// Business time.
    pub clock: SharedClock,
    /// All merchants.
    pub merchants: Arc<Merchants>,
}

impl From<Host> for Sources {
    fn from(host: Host) -> Self {
        Self { pool: host.pool, clock: host.clock, merchants: host.merchants }
    }
}

/// The rules. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Rules {
    host: Sources,
    in_force: Arc<RwLock<Arc<InForce>>>,
    /// All versions met so far.
    versions: Arc<RwLock<Versions>>,
    /// Policies read so far: they never change.
    policies: Arc<RwLock<HashMap<PolicyKey, Policy>>>,
}

impl Rules {
    /// Puts campaigns into force and reads back all versions that a running case may be on. A campaign whose file has a
    /// fault is not among `campaigns`: the version of it that was in force last stays so.
    pub async fn load(host: impl Into<Sources>, campaigns: &Campaigns, calendars: Calendars) -> anyhow::Result<Self> {
        let rules =
            Self { host: host.into(), in_force: Arc::default(), versions: Arc::default(), policies: Arc::default() };
        rules.put_in_force(campaigns, calendars).await?;
        Ok(rules)
    }

    /// Puts campaigns into force: cases that begin from now on follow them.
    pub async fn put_in_force(&self, campaigns: &Campaigns, calendars: Calendars) -> anyhow::Result<()> {
        let mut all: BTreeMap<String, Arc<Campaign>> = BTreeMap::new();
        for (name, text) in store::campaigns_in_force(&self.host.pool).await? {
            match config::parse_campaign(&text) {
                Ok(campaign) => _ = all.insert(name, Arc::new(campaign)),
                Err(error) => tracing::error!(campaign = name, %error, "a stored campaign cannot be read any more"),
            }
        }
        for (name, (campaign, text)) in campaigns {
            let steps: Vec<String> = campaign.steps.iter().map(|s| s.key.clone()).collect();
            store::put_in_force(&self.host.pool, name, &campaign.version, text, &steps).await?;
            all.insert(name.clone(), Arc::new(campaign.clone()));
        }
        let named = all.iter().map(|(name, c)| ((name.clone(), c.version.clone()), c.clone()));
        self.versions.write().unwrap_or_else(PoisonError::into_inner).extend(named);
        self.learn(&self.host.pool).await?;
        let in_force = InForce::new(all, calendars, &self.versions.read().unwrap_or_else(PoisonError::into_inner));
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(in_force);
        Ok(())
    }

    /// Reads the stored campaign versions that are not known yet.
    async fn learn(&self, db: impl PgExecutor<'_>) -> sqlx::Result<()> {
        let stored = store::campaigns(db).await?;
        let mut known = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        for (name, version, text) in stored {
            let key = (name, version);
            if known.contains_key(&key) {
                continue;
            }
            match config::parse_campaign(&text) {
                Ok(campaign) => _ = known.insert(key, Arc::new(campaign)),
                // Its cases wait; readiness of everything else does not depend on it.
                Err(error) => {
                    tracing::error!(campaign = ?key, %error, "a stored campaign version cannot be read any more")
                }
            }
        }
        Ok(())
    }

    /// What new cases begin on, as of now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Business time.
    pub fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    /// A configured merchant.
    pub fn merchant(&self, id: &MerchantId) -> Option<&Merchant> {
        self.host.merchants.get(id)
    }

    /// All merchants.
    pub fn merchants(&self) -> &Merchants {
        &self.host.merchants
    }

    /// A version of a campaign that is not in force, nor need be stored: to look at what it would do.
    pub fn know(&self, name: &str, campaign: Campaign) {
        let mut known = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        known.insert((name.to_owned(), campaign.version.clone()), Arc::new(campaign));
    }

    /// The campaign version that a case is on.
    pub fn campaign(&self, case: &CaseState) -> Option<Arc<Campaign>> {
        let known = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&(case.campaign.clone(), case.campaign_version.clone())).cloned()
    }

    /// Cases that are locked, each as it is stored and as it is from now on: with its campaign, its turn in the ramp, and
    /// what is drawn for it, which is told.
    pub async fn load_cases(
        &self,
        work: &mut Work,
        in_force: &InForce,
        ids: &[uuid::Uuid],
        now: Timestamp,
    ) -> Result<Vec<(CaseState, CaseState)>, Failure> {
        let cases = store::load_cases(work.tx(), ids, now, in_force.asks_balance).await?;
        // One may be on a version that came into force after we started: another replica opened it.
        if cases.iter().any(|case| !case.campaign.is_empty() && self.campaign(case).is_none()) {
            self.learn(work.tx()).await?;
        }
        let mut both: Vec<(CaseState, CaseState)> = Vec::with_capacity(cases.len());
        for case in cases {
            let after = self.with_campaign(&case, in_force, now);
            both.push((case, after));
        }
        self.take_turns(work.tx(), &mut both, now).await?;
        self.enrol(work, &mut both, now).await?;
        Ok(both)
    }

    /// Draws for cases that begin to follow a campaign which suits itself to payers, and tells.
    pub(crate) async fn enrol(
        &self,
        work: &mut Work,
        cases: &mut [(CaseState, CaseState)],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let wanting = |case: &CaseState| self.campaign(case).filter(|campaign| enrolment::is_wanting(case, campaign));
        let mut keys: BTreeMap<PolicyKey, Arc<Campaign>> = BTreeMap::new();
        for (_, case) in cases.iter() {
            let Some(campaign) = wanting(case) else { continue };
            let learning = |s: &&Step| s.experiment.as_ref().is_some_and(|e| e.assign == Assign::Thompson);
            keys.extend(campaign.steps.iter().filter(learning).map(|step| (policy_key(case, step), campaign.clone())));
        }
        let policies = self.policies(work.tx(), &keys).await?;
        for (before, case) in cases.iter_mut() {
            let Some(campaign) = wanting(case) else { continue };
            case.enrolment = Some(enrolment::draw(case, &campaign, &policies));
            let Some(event) = enrolment::event(before, case, &campaign, now) else { continue };
            work.emit(now, &event)?;
        }
        Ok(())
    }

    /// The policies of these weeks. The first to need one learns it and keeps it for all.
    async fn policies(
        &self,
        tx: &mut PgConnection,
        keys: &BTreeMap<PolicyKey, Arc<Campaign>>,
    ) -> Result<Policies, Failure> {
        let mut policies = Policies::default();
        for (key, campaign) in keys {
            if let Some(known) = self.policies.read().unwrap_or_else(PoisonError::into_inner).get(key) {
                policies.0.insert(key.clone(), known.clone());
                continue;
            }
            let mut stored = store::policy(tx, key).await?;
            if stored.is_none() {
                store::lock_policies(tx, &key.0).await?;
                stored = store::policy(tx, key).await?;
            }
            if let Some(policy) = &stored {
                let mut known = self.policies.write().unwrap_or_else(PoisonError::into_inner);
                known.insert(key.clone(), policy.clone());
            }
            let policy = match stored {
                Some(policy) => policy,
                None => {
                    let zone = self.merchant(&key.0).map_or("UTC", |m| m.file.time_zone.as_str());
                    let Some(policy) = learn_policy(tx, key, campaign, zone).await? else { continue };
                    store::keep_policy(tx, key, &policy).await?
                }
            };
            policies.0.insert(key.clone(), policy);
        }
        Ok(policies)
    }

    /// See [`follow`].
    fn with_campaign(&self, case: &CaseState, in_force: &InForce, now: Timestamp) -> CaseState {
        self.merchant(&case.merchant).map_or_else(|| case.clone(), |merchant| follow(case, merchant, in_force, now))
    }

    /// Gives late invoices their day in the ramp of their campaign, in the order of their due dates.
    async fn take_turns(
        &self,
        tx: &mut PgConnection,
        cases: &mut [(CaseState, CaseState)],
        now: Timestamp,
    ) -> sqlx::Result<()> {
        // By merchant, campaign and version: those of one have one limit.
        let mut late: BTreeMap<(MerchantId, String, String), Late<'_>> = BTreeMap::new();
        for (_, case) in cases.iter_mut() {
            let Some(merchant) = self.merchant(&case.merchant) else { continue };
            let Some(campaign) = self.campaign(case) else { continue };
            let today = crate::domain::payer_zone(&case.payer.time_zone, &merchant.zone).to_datetime(now).date();
            if case.needs_turn(&campaign, today) {
                let key = (case.merchant.clone(), case.campaign.clone(), case.campaign_version.clone());
                late.entry(key).or_insert_with(|| (campaign, Vec::new())).1.push((today, case));
            }
        }
        for ((merchant, name, _), (campaign, mut cases)) in late {
            cases.sort_by(|a, b| (a.0, a.1.due_on, &a.1.invoice).cmp(&(b.0, b.1.due_on, &b.1.invoice)));
            let Some(first) = cases.first().map(|(day, _)| *day) else { continue };
            let taken = store::lock_ramp(tx, &merchant, &name, first).await?;
            let Some(mut ramp) = Ramp::resume(&campaign, taken) else { continue };
            let mut changed = BTreeSet::new();
            for (today, case) in cases {
                let turn = ramp.take(today);
                changed.insert(turn);
                case.not_before = Some(turn);
            }
            let changed = ramp.taken().filter(|(day, _)| changed.contains(day)).collect();
            store::save_ramp(tx, &merchant, &name, &changed).await?;
        }
        Ok(())
    }

    /// When to look again at a case that cannot be planned here: to tell that it is overdue, or `later`.
    pub fn wake_without_plan(&self, case: &CaseState, now: Timestamp, later: Option<Timestamp>) -> Option<Timestamp> {
        let overdue = self.merchant(&case.merchant).and_then(|m| case.overdue_at(&m.zone, now));
        [overdue, later].into_iter().flatten().min()
    }
}

/// What the outcomes known before a week teach about a step's arms.
async fn learn_policy(
    tx: &mut PgConnection,
    key: &PolicyKey,
    campaign: &Campaign,
    zone: &str,
) -> sqlx::Result<Option<Policy>> {
    let (merchant, name, _, step, week) = key;
    let Some(step) = campaign.step(step) else { return Ok(None) };
    let Some(experiment) = &step.experiment else { return Ok(None) };
    let arms = &experiment.labels;
    let outcomes = store::outcomes_of_arms(tx, merchant, name, step, *week, zone).await?;
    let tallies = |of: Option<Segment>| -> Vec<_> {
        outcomes.iter().filter(|(segment, _)| of.is_none_or(|of| of == *segment)).map(|(_, t)| t.clone()).collect()
    };
    let failures = |tallies: &[payer::experiment::Tally<String>]| {
        let sum = |count: fn(&payer::experiment::Tally<String>) -> u32| {
            tallies.iter().map(|t| f64::from(count(t))).sum::<f64>()
        };
        let (failed, all) = (sum(|t| t.failures), sum(|t| t.successes + t.failures));
        // Half, as long as there is none.
        (failed + 1.0) / (all + 2.0)
    };
    let all = tallies(None);
    let of_all = Knowledge::learn(arms, failures(&all), &all);
    let of_segment = |segment: Segment| {
        let own = tallies(Some(segment));
        let knowledge = Knowledge::learn(arms, failures(&own), &own);
        (segment, knowledge.or(&of_all).propensities())
    };
    Ok(Some(Policy { all: of_all.propensities(), segments: Segment::ALL.into_iter().map(of_segment).collect() }))
}

/// The case with the campaign that it follows: chosen anew until its first step is decided, or could have been in the group
/// that it is compared with; always in the version that it began with.
pub fn follow(case: &CaseState, merchant: &Merchant, in_force: &InForce, now: Timestamp) -> CaseState {
    let mut after = case.clone();
    let today = merchant.zone.to_datetime(now).date();
    let is_compared = case.enrolled().and_then(|e| e.pinned_on).is_some_and(|day| day <= today);
    if !case.is_unpinned() || case.end().is_some() || is_compared {
        return after;
    }
    let order = merchant.file.campaigns.iter().map(String::as_str);
    let find = |name: &str| in_force.campaigns.get(name).map(Arc::as_ref);
    let own = (case.own_campaign.as_str(), case.payer.campaign.as_str());
    match campaign::choose(order, find, own, &case.facts(merchant)) {
        Ok(choice) if choice.campaign == case.campaign => after.chosen_by = choice.rule,
        Ok(choice) => {
            after.campaign_version = find(choice.campaign).map(|c| c.version.clone()).unwrap_or_default();
            (after.campaign, after.chosen_by) = (choice.campaign.to_owned(), choice.rule);
            // The turn was one in the other campaign's ramp.
            after.not_before = None;
        }
        Err(reason) => {
            (after.campaign, after.campaign_version) = (String::new(), String::new());
            after.chosen_by = reason.as_str().to_owned();
            after.not_before = None;
        }
    }
    after
}
