//! Who leads: the decision, without I/O and without a clock.
//!
//! Times are durations on the candidate's own monotonic clock. Nobody's wall clock is compared with
//! anybody else's: a lease has expired once *we* have seen it unchanged for its whole duration.

use std::{cmp::Ordering, time::Duration};

/// The order of candidates: priority first, then version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// [`BUILT_IN`] or [`CHART`].
    pub priority: u32,
    /// Semantic version of the player.
    pub version: String,
}

/// Priority of a player that is built into `improv up`.
pub const BUILT_IN: u32 = 0;

/// Priority of a player that a chart, or a person, has started.
pub const CHART: u32 = 10;

impl Rank {
    /// `priority/version`, as written on the Lease.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.priority, self.version)
    }

    /// The inverse of [`Self::to_text`].
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (priority, version) = text.split_once('/')?;
        Some(Self { priority: priority.parse().ok()?, version: version.to_owned() })
    }

    /// Numbers of the version's core; a pre-release counts as lower than its release.
    fn version_key(&self) -> (Vec<u64>, bool, &str) {
        let version = self.version.split('+').next().unwrap_or_default();
        let (core, pre) = version.split_once('-').map_or((version, ""), |(core, pre)| (core, pre));
        let numbers = core.split('.').map(|part| part.parse().unwrap_or(0)).collect();
        (numbers, pre.is_empty(), pre)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = self.priority.cmp(&other.priority);
        by_priority.then_with(|| self.version_key().cmp(&other.version_key()))
    }
}

/// Somebody who can lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Unique among the living candidates of a Lease.
    pub identity: String,
    /// Unknown for holders that are not ours, which nobody challenges.
    pub rank: Option<Rank>,
}

impl Candidate {
    fn outranks(&self, other: &Self) -> bool {
        matches!((&self.rank, &other.rank), (Some(ours), Some(theirs)) if ours > theirs)
    }
}

/// How long each thing takes.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Unchanged for this long, a lease has expired.
    pub duration: Duration,
    /// A leader that could not renew for this long stops: before anybody else can start.
    pub give_up: Duration,
    /// A leader renews this often.
    pub renew: Duration,
    /// A challenger repeats its claim this often.
    pub claim: Duration,
    /// A claim not repeated for this long is void.
    pub claim_void: Duration,
}

impl Default for Timing {
    /// Lease and deadline as client-go's components have them; renewals are rarer than their two
    /// seconds, since ten players in one process renew ten leases.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            give_up: Duration::from_secs(10),
            renew: Duration::from_secs(4),
            claim: Duration::from_secs(2),
            claim_void: Duration::from_secs(6),
        }
    }
}

/// The Lease as it was last seen.
#[derive(Debug, Clone)]
pub struct Record {
    /// Who holds it; `None` when released.
    pub holder: Option<Candidate>,
    /// When, on our clock, holder or renewal last changed.
    pub changed: Duration,
    /// The duration that the holder promised, if it did.
    pub duration: Option<Duration>,
    /// Who asks the holder to step down.
    pub claim: Option<Claim>,
}

/// A challenger's announcement.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who.
    pub by: Candidate,
    /// When, on our clock, it was last seen to change.
    pub changed: Duration,
}

/// All that a decision depends on.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Who decides.
    pub me: &'a Candidate,
    /// `None` if the Lease does not exist.
    pub record: Option<&'a Record>,
    /// While leading (or still finishing): when our last successful renewal was *sent*.
    pub renewed: Option<Duration>,
    /// Whether we must not lead any longer and are only finishing.
    pub finishing: bool,
    /// The time on our clock.
    pub now: Duration,
    /// The rules' numbers.
    pub timing: Timing,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write the Lease with us as its holder, then lead.
    Acquire,
    /// Write a new renewal.
    Renew,
    /// Ask the holder to step down.
    Claim,
    /// Finish what runs, then release the Lease.
    StepDown,
    /// Stop at once: somebody else may lead.
    Abandon,
    /// Nothing, until the Lease changes or this much time has passed.
    Wait(Duration),
}

/// The next step of a candidate.
#[must_use]
pub fn decide(view: &View<'_>) -> Step {
    match view.renewed {
        Some(renewed) => as_leader(view, renewed),
        None => as_candidate(view),
    }
}

fn as_leader(view: &View<'_>, renewed: Duration) -> Step {
    let View { me, now, timing, .. } = view;
    let holds = view
        .record
        .and_then(|record| record.holder.as_ref())
        .is_some_and(|h| h.identity == me.identity);
    let since = now.saturating_sub(renewed);
    if !holds || since >= timing.give_up {
        return Step::Abandon;
    }
    if since >= timing.renew {
        return Step::Renew; // Also while finishing, which may take long.
    }
    let claim = view.record.and_then(|record| record.claim.as_ref());
    if !view.finishing && claim.is_some_and(|claim| claim.by.outranks(me) && is_alive(claim, view))
    {
        return Step::StepDown;
    }
    Step::Wait(timing.renew.saturating_sub(since))
}

fn as_candidate(view: &View<'_>) -> Step {
    let View { me, now, timing, .. } = view;
    let Some(record) = view.record else { return Step::Acquire };
    let holder = match &record.holder {
        // We held it in a former life; nobody else has our name.
        Some(holder) if holder.identity == me.identity => return Step::Acquire,
        Some(holder) => holder,
        None => return acquire_unless_claimed(view, record),
    };
    let expires = record.changed + record.duration.unwrap_or(timing.duration);
    let Some(left) = expires.checked_sub(*now).filter(|left| !left.is_zero()) else {
        return acquire_unless_claimed(view, record);
    };
    if !me.outranks(holder) {
        return Step::Wait(left);
    }
    match record.claim.as_ref().filter(|claim| is_alive(claim, view)) {
        Some(claim) if claim.by.identity == me.identity => {
            let again = (claim.changed + timing.claim).saturating_sub(*now);
            if again.is_zero() { Step::Claim } else { Step::Wait(left.min(again)) }
        }
        // Let the better one, or the earlier of two equals, have it.
        Some(claim) if !me.outranks(&claim.by) => Step::Wait(left.min(void_in(claim, view))),
        _ => Step::Claim,
    }
}

/// The Lease is free. A living challenger that outranks us goes first: the holder left for it.
fn acquire_unless_claimed(view: &View<'_>, record: &Record) -> Step {
    match &record.claim {
        Some(claim) if claim.by.outranks(view.me) && is_alive(claim, view) => {
            Step::Wait(void_in(claim, view))
        }
        _ => Step::Acquire,
    }
}

fn is_alive(claim: &Claim, view: &View<'_>) -> bool {
    !void_in(claim, view).is_zero()
}

fn void_in(claim: &Claim, view: &View<'_>) -> Duration {
    (claim.changed + view.timing.claim_void).saturating_sub(view.now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn who(text: &str) -> Candidate {
        let (identity, rank) = text.split_once('@').unwrap_or((text, ""));
        Candidate { identity: identity.into(), rank: Rank::from_text(rank) }
    }

    /// `holder` and `claim` as `name@priority/version changed-at`.
    fn record(holder: &str, changed: u64, claim: Option<(&str, u64)>) -> Record {
        Record {
            holder: (!holder.is_empty()).then(|| who(holder)),
            changed: s(changed),
            duration: Some(s(15)),
            claim: claim.map(|(by, changed)| Claim { by: who(by), changed: s(changed) }),
        }
    }

    const ME: &str = "me@0/1.0.0";
    const BETTER: &str = "chart@10/1.0.0";

    #[track_caller]
    fn waits(record: Option<&Record>, now: u64, expected: Step) {
        check(ME, record, None, now, expected);
    }

    #[track_caller]
    fn check(me: &str, record: Option<&Record>, renewed: Option<u64>, now: u64, expected: Step) {
        let me = who(me);
        let view = View {
            me: &me,
            record,
            renewed: renewed.map(s),
            finishing: false,
            now: s(now),
            timing: Timing::default(),
        };
        assert_eq!(decide(&view), expected);
    }

    #[test]
    fn a_free_lease_is_taken() {
        waits(None, 0, Step::Acquire);
        waits(Some(&record("", 0, None)), 1, Step::Acquire);
        waits(Some(&record("me@0/0.9.0", 0, None)), 1, Step::Acquire);
    }

    #[test]
    fn a_held_lease_expires_on_our_own_clock() {
        let held = record(BETTER, 100, None);
        waits(Some(&held), 101, Step::Wait(s(14)));
        waits(Some(&held), 114, Step::Wait(s(1)));
        waits(Some(&held), 115, Step::Acquire);
        // Our clock has only just started; the holder's renewTime is not looked at.
        waits(Some(&record(BETTER, 0, None)), 0, Step::Wait(s(15)));
    }

    #[test]
    fn same_rank_does_not_challenge() {
        waits(Some(&record("other@0/1.0.0", 0, None)), 1, Step::Wait(s(14)));
        check("me@10/1.0.0", Some(&record(BETTER, 0, None)), None, 1, Step::Wait(s(14)));
    }

    #[test]
    fn a_foreign_holder_is_not_challenged() {
        check(BETTER, Some(&record("kube-scheduler", 0, None)), None, 1, Step::Wait(s(14)));
    }

    #[test]
    fn higher_priority_then_higher_version_challenges() {
        let held = record(ME, 0, None);
        check(BETTER, Some(&held), None, 1, Step::Claim);
        check("you@0/1.0.1", Some(&held), None, 1, Step::Claim);
        check("you@0/1.10.0", Some(&record("me@0/1.9.0", 0, None)), None, 1, Step::Claim);
        check("you@0/0.9.9", Some(&held), None, 1, Step::Wait(s(14)));
    }

    #[test]
    fn a_claim_is_repeated_and_the_better_one_stays() {
        let held = |by: &str, at| record(ME, 0, Some((by, at)));
        check(BETTER, Some(&held(BETTER, 1)), None, 2, Step::Wait(s(1)));
        check(BETTER, Some(&held(BETTER, 1)), None, 3, Step::Claim);
        check(BETTER, Some(&held("newer@10/2.0.0", 1)), None, 2, Step::Wait(s(5)));
        check(BETTER, Some(&held("newer@10/2.0.0", 1)), None, 7, Step::Claim);
        check("newer@10/2.0.0", Some(&held(BETTER, 1)), None, 2, Step::Claim);
    }

    #[test]
    fn the_leader_steps_down_for_a_living_better_claim() {
        let led = |by: &str, at| record(ME, 0, Some((by, at)));
        check(ME, Some(&led(BETTER, 1)), Some(0), 1, Step::StepDown);
        check(ME, Some(&led(BETTER, 1)), Some(5), 7, Step::Wait(s(2))); // The challenger has died.
        check(ME, Some(&led("same@0/1.0.0", 1)), Some(0), 1, Step::Wait(s(3)));
        check(ME, Some(&led("less@0/0.1.0", 1)), Some(0), 1, Step::Wait(s(3)));
    }

    #[test]
    fn after_stepping_down_the_challenger_goes_first_unless_it_dies() {
        let free = record("", 10, Some((BETTER, 10)));
        waits(Some(&free), 11, Step::Wait(s(5)));
        waits(Some(&free), 16, Step::Acquire);
        check(BETTER, Some(&free), None, 11, Step::Acquire);
    }

    #[test]
    fn the_leader_renews_in_time_or_stops() {
        let mine = record(ME, 0, None);
        check(ME, Some(&mine), Some(0), 3, Step::Wait(s(1)));
        check(ME, Some(&mine), Some(0), 4, Step::Renew);
        check(ME, Some(&mine), Some(0), 9, Step::Renew);
        check(ME, Some(&mine), Some(0), 10, Step::Abandon);
        check(ME, Some(&record(BETTER, 0, None)), Some(0), 1, Step::Abandon);
        check(ME, None, Some(0), 1, Step::Abandon);
    }

    #[test]
    fn a_leader_stops_before_its_lease_can_expire() {
        let timing = Timing::default();
        assert!(timing.give_up < timing.duration);
        assert!(timing.renew * 2 < timing.give_up, "one renewal may fail");
        assert!(timing.claim * 2 < timing.claim_void, "one claim may fail");
    }

    #[test]
    fn versions_compare_as_numbers_and_releases_beat_their_candidates() {
        let rank = |text| Rank::from_text(text).unwrap();
        assert!(rank("0/0.10.0") > rank("0/0.9.0"));
        assert!(rank("10/0.1.0") > rank("0/9.0.0"));
        assert!(rank("0/1.0.0") > rank("0/1.0.0-rc.1"));
        assert_eq!(rank("0/1.0.0+a").cmp(&rank("0/1.0.0+b")), Ordering::Equal);
        assert_eq!(rank("10/1.2.3").to_text(), "10/1.2.3");
    }
}
