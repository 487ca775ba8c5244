use super::*;
use proptest::prelude::*;

const SHAPE: Shape = Shape { queues: 16, hand: 4, length: 50 };

fn asked(flow: u64, seats: u32) -> Asked {
    Asked { flow, seats, after: 0.0, note: () }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[track_caller]
fn ticket(arrival: Arrival) -> Ticket {
    match arrival {
        Arrival::Runs(ticket) | Arrival::Waits(ticket) => ticket,
        other => panic!("refused: {other:?}"),
    }
}

#[test]
fn what_fits_runs_and_the_rest_waits_or_is_refused() {
    let mut set = QueueSet::new(Shape { queues: 1, hand: 1, length: 1 }, 2);
    let first = set.arrive(at(0), asked(1, 2), |t| t);
    assert!(matches!(first, Arrival::Runs(_)));
    let second = set.arrive(at(0), asked(1, 1), |t| t);
    assert!(matches!(second, Arrival::Waits(_)));
    assert_eq!(set.arrive(at(0), asked(1, 1), |t| t), Arrival::QueueFull);
    assert_eq!(set.leave(at(1), ticket(first), Reason::Done), [ticket(second)]);
    let counts = Counts { dispatched: 2, rejected: 1, ..Counts::default() };
    assert_eq!(set.counts(), counts);
}

#[test]
fn a_level_without_queues_refuses() {
    let mut set = QueueSet::new(Shape::default(), 1);
    let first = set.arrive(at(0), asked(1, 1), |t| t);
    assert_eq!(set.arrive(at(0), asked(2, 1), |t| t), Arrival::NoSeat);
    assert!(set.leave(at(1), ticket(first), Reason::Done).is_empty());
    assert!(matches!(set.arrive(at(1), asked(2, 1), |t| t), Arrival::Runs(_)));
}

#[test]
fn a_wide_request_is_not_passed_by_narrow_ones_forever() {
    let mut set = QueueSet::new(SHAPE, 4);
    let narrow: Vec<Ticket> =
        (0..4).map(|_| ticket(set.arrive(at(0), asked(1, 1), |t| t))).collect();
    let wide = ticket(set.arrive(at(0), asked(2, 4), |t| t));
    let later = ticket(set.arrive(at(1), asked(3, 1), |t| t));
    let woken: Vec<Ticket> = narrow
        .into_iter()
        .enumerate()
        .flat_map(|(n, t)| set.leave(at(10 + n as u64), t, Reason::Done))
        .collect();
    // The narrow one is virtually shorter; the wide one follows it, before anything that comes later.
    assert_eq!(woken, [later]);
    let last = ticket(set.arrive(at(20), asked(3, 1), |t| t));
    assert_eq!(set.leave(at(21), later, Reason::Done), [wide]);
    assert_eq!(set.leave(at(22), wide, Reason::Done), [last]);
}

#[test]
fn a_request_wider_than_the_level_runs_alone() {
    let mut set = QueueSet::new(SHAPE, 2);
    assert!(matches!(set.arrive(at(0), asked(1, 10), |t| t), Arrival::Runs(_)));
    assert!(matches!(set.arrive(at(0), asked(2, 1), |t| t), Arrival::Waits(_)));
}

#[test]
fn who_goes_while_waiting_leaves_room() {
    let mut set = QueueSet::new(Shape { queues: 1, hand: 1, length: 1 }, 1);
    let first = ticket(set.arrive(at(0), asked(1, 1), |t| t));
    let second = ticket(set.arrive(at(0), asked(1, 1), |t| t));
    assert!(set.leave(at(1), second, Reason::TimedOut).is_empty());
    let third = ticket(set.arrive(at(1), asked(1, 1), |t| t));
    assert_eq!(set.leave(at(2), first, Reason::Done), [third]);
    assert_eq!(set.counts().timed_out, 1);
    // Leaving twice changes nothing.
    assert!(set.leave(at(3), first, Reason::Done).is_empty());
    assert_eq!(set.seats_in_use(), 1);
}

#[test]
fn who_is_held_back_while_seats_are_free_is_known() {
    let mut set = QueueSet::new(SHAPE, 4);
    let noted = |seats, note| Asked { flow: 1, seats, after: 0.0, note };
    let first = ticket(set.arrive(at(0), noted(3, "first"), |t| t));
    let wide = ticket(set.arrive(at(0), noted(4, "wide"), |t| t));
    assert_eq!((set.held_back(), set.length_around(wide)), (Some(&"wide"), 1));
    assert_eq!(set.leave(at(1), first, Reason::Done), [wide]);
    // It takes all seats, so whoever comes now waits for the end of others only.
    set.arrive(at(1), noted(1, "last"), |t| t);
    assert_eq!(set.held_back(), None);
    let seen: Vec<_> = set.requests().map(|s| (s.asked.note, s.place, s.came, s.started)).collect();
    assert_eq!(seen, [("last", Some(0), at(1), None), ("wide", None, at(0), Some(at(1)))]);
}

#[test]
fn virtual_time_is_told_of_each_service() {
    let mut set = QueueSet::new(Shape { queues: 2, hand: 1, length: 9 }, 1);
    assert_eq!(set.served(), None);
    let first = ticket(set.arrive(at(0), asked(0, 1), |t| t));
    let begun = Served { at: 0.0, start: 0.0, starts: (0.0, 0.0), discounted: (0.0, 0.0) };
    assert_eq!(set.served(), Some(begun));
    set.arrive(at(0), asked(0, 1), |t| t);
    set.arrive(at(0), asked(1, 1), |t| t);
    // One seat for two busy queues: in two seconds, each was given one seat-second.
    assert_eq!(set.leave(at(2000), first, Reason::Done).len(), 1);
    let served = set.served().unwrap();
    assert!((served.at - 1.0).abs() < 1e-9 && (set.virtual_now() - 1.0).abs() < 1e-9);
    // The other queue's head begins at once, that of the first after the two seat-seconds it took.
    assert_eq!((served.start, served.starts), (0.0, (0.0, 2.0)));
    assert_eq!(served.discounted, served.starts);
}

#[test]
fn seats_of_those_that_never_end_are_taken_back() {
    let mut set = QueueSet::new(SHAPE, 1);
    let stuck = ticket(set.arrive(at(0), asked(1, 1), |t| t));
    let second = ticket(set.arrive(at(10), asked(2, 1), |t| t));
    assert!(set.evict(at(60_000), Duration::from_secs(60)).is_empty());
    assert_eq!(set.evict(at(60_001), Duration::from_secs(60)), [second]);
    assert!(set.leave(at(60_002), stuck, Reason::Done).is_empty());
    assert_eq!(set.seats_in_use(), 1);
}

#[test]
fn another_shape_keeps_who_waits() {
    let mut set = QueueSet::new(SHAPE, 1);
    let first = ticket(set.arrive(at(0), asked(1, 1), |t| t));
    let rest: Vec<Ticket> =
        (2..6).map(|flow| ticket(set.arrive(at(0), asked(flow, 1), |t| t))).collect();
    assert!(set.configure(at(1), Shape { queues: 2, hand: 1, length: 50 }, 1).is_empty());
    assert_eq!(set.n_waiting(), 4);
    let woken = set.configure(at(1), Shape::default(), 3);
    assert_eq!(woken.len(), 2);
    assert!(woken.iter().all(|t| rest.contains(t)));
    assert_eq!(set.leave(at(2), first, Reason::Done).len(), 1);
}

/// Two flows: one floods, one asks now and then. The quiet one must not notice.
#[test]
fn a_flood_does_not_delay_a_quiet_flow() {
    let mut set = QueueSet::new(Shape { queues: 64, hand: 6, length: 50 }, 4);
    let mut running: VecDeque<(Ticket, u64)> = VecDeque::new();
    let (mut quiet_waits, mut quiet): (Vec<u64>, HashMap<Ticket, u64>) = Default::default();
    for now in 0..2000 {
        let mut woken: Vec<Ticket> = Vec::new();
        while running.front().is_some_and(|(_, end)| *end <= now) {
            let (ticket, _) = running.pop_front().unwrap();
            woken.extend(set.leave(at(now), ticket, Reason::Done));
        }
        for _ in 0..3 {
            if let Arrival::Runs(t) = set.arrive(at(now), asked(1, 1), |t| t) {
                woken.push(t);
            }
        }
        if now % 20 == 0 {
            match set.arrive(at(now), asked(999, 1), |t| t) {
                Arrival::Runs(t) => {
                    quiet_waits.push(0);
                    woken.push(t);
                }
                Arrival::Waits(t) => {
                    quiet.insert(t, now);
                }
                other => panic!("the quiet flow is refused: {other:?}"),
            }
        }
        for ticket in woken {
            if let Some(since) = quiet.remove(&ticket) {
                quiet_waits.push(now - since);
            }
            running.push_back((ticket, now + 10));
        }
    }
    assert!(quiet_waits.len() >= 99, "{}", quiet_waits.len());
    assert!(quiet_waits.iter().all(|wait| *wait <= 10), "{quiet_waits:?}");
    assert!(set.counts().rejected > 0, "the flood was no flood");
}

/// What a random client does.
#[derive(Clone, Debug)]
enum Act {
    Arrive(u64, u32),
    Leave(usize),
    Limit(u32),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..8_u64, 1..6_u32).prop_map(|(flow, seats)| Act::Arrive(flow, seats)),
        4 => (0..100_usize).prop_map(Act::Leave),
        1 => (1..12_u32).prop_map(Act::Limit),
        2 => (0..50_u64).prop_map(Act::Wait),
    ]
}

proptest! {
    /// Seats never exceed the limit (but for one request alone), everyone who waits is woken once.
    #[test]
    fn seats_are_kept_and_nobody_is_forgotten(acts in prop::collection::vec(act(), 1..300)) {
        let mut set = QueueSet::new(Shape { queues: 4, hand: 2, length: 5 }, 6);
        let (mut now, mut limit) = (0, 6_u32);
        let (mut present, mut woken): (Vec<(Ticket, u32)>, Vec<Ticket>) = Default::default();
        let mut widest_limit = limit;
        for act in acts {
            let more = match act {
                Act::Arrive(flow, seats) => match set.arrive(at(now), asked(flow, seats), |t| t) {
                    Arrival::Runs(t) => {
                        present.push((t, seats));
                        woken.push(t);
                        Vec::new()
                    }
                    Arrival::Waits(t) => {
                        present.push((t, seats));
                        Vec::new()
                    }
                    _ => Vec::new(),
                },
                Act::Leave(_) if present.is_empty() => Vec::new(),
                Act::Leave(n) => {
                    let (ticket, _) = present.swap_remove(n % present.len());
                    woken.retain(|t| *t != ticket);
                    set.leave(at(now), ticket, Reason::Done)
                }
                Act::Limit(next) => {
                    limit = next;
                    set.configure(at(now), Shape { queues: 4, hand: 2, length: 5 }, next)
                }
                Act::Wait(millis) => {
                    now += millis;
                    Vec::new()
                }
            };
            for ticket in more {
                prop_assert!(!woken.contains(&ticket), "woken twice");
                prop_assert!(present.iter().any(|(t, _)| *t == ticket), "woken after it left");
                woken.push(ticket);
            }
            let in_use: u32 = present.iter().filter(|(t, _)| woken.contains(t)).map(|(_, s)| s).sum();
            prop_assert_eq!(in_use, set.seats_in_use());
            widest_limit = widest_limit.max(limit);
            prop_assert!(in_use <= widest_limit || woken.len() == 1);
            prop_assert!(set.n_running() > 0 || set.n_waiting() == 0, "idle while somebody waits");
        }
        // When all that run end, all that wait run in turn.
        while let Some(ticket) = woken.pop() {
            present.retain(|(t, _)| *t != ticket);
            now += 1;
            woken.extend(set.leave(at(now), ticket, Reason::Done));
        }
        prop_assert!(present.is_empty(), "starved: {:?}", present);
        prop_assert_eq!((set.seats_in_use(), set.n_waiting(), set.active), (0, 0, 0));
    }

    /// Flows that always have something to do get the same share, however many requests they send.
    #[test]
    fn busy_flows_share_evenly(batches in prop::collection::vec(1..40_usize, 2..6)) {
        let mut set = QueueSet::new(Shape { queues: 64, hand: 1, length: 50 }, 4);
        let mut served = vec![0_usize; batches.len()];
        let mut owner: HashMap<Ticket, usize> = HashMap::new();
        let mut running: VecDeque<Ticket> = VecDeque::new();
        let mut waiting = vec![0_usize; batches.len()];
        for now in 0..600_u64 {
            for (flow, batch) in batches.iter().enumerate() {
                while waiting[flow] < (*batch).max(8) {
                    // A queue for each flow, so that the count is exact.
                    let hash = flow as u64;
                    match set.arrive(at(now), asked(hash, 1), |t| t) {
                        Arrival::Runs(t) => { owner.insert(t, flow); running.push_back(t); }
                        Arrival::Waits(t) => { owner.insert(t, flow); waiting[flow] += 1; }
                        _ => break,
                    }
                }
            }
            if let Some(ticket) = running.pop_front() {
                for next in set.leave(at(now), ticket, Reason::Done) {
                    let flow = owner[&next];
                    waiting[flow] -= 1;
                    served[flow] += 1;
                    running.push_back(next);
                }
            }
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        prop_assert!(most - least <= 4, "{:?} of {:?}", served, batches);
    }
}
