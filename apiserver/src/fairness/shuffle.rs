//! Shuffle sharding: each flow is dealt a small hand out of many queues, so that two flows seldom share all
//! of theirs.
//!
//! Source: KEP-1040, "Assignment to a Queue".

/// Deals `hand` different cards out of `deck`, always the same for the same `hash`; at most `deck` of them.
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> impl Iterator<Item = usize> {
    let mut taken: Vec<usize> = Vec::with_capacity(hand.min(deck));
    (0..hand.min(deck)).map(move |n| {
        let left = (deck - n) as u64;
        // The n-th of the cards that are left, counted over those that are taken.
        let mut card = (hash % left) as usize;
        hash /= left;
        for &other in &taken {
            card += usize::from(card >= other);
        }
        let at = taken.partition_point(|&other| other < card);
        taken.insert(at, card);
        card
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hand_has_no_card_twice(hash: u64, deck in 1..200usize, hand in 1..12usize) {
            let mut cards: Vec<usize> = deal(hash, deck, hand).collect();
            prop_assert_eq!(cards.len(), hand.min(deck));
            cards.sort_unstable();
            cards.dedup();
            prop_assert_eq!(cards.len(), hand.min(deck));
            prop_assert!(cards.iter().all(|card| *card < deck));
        }
    }

    #[test]
    fn every_card_is_dealt_about_as_often() {
        let mut counts = [0_u32; 16];
        let hands = 16 * 15 * 14 * 13;
        for hash in 0..hands {
            deal(hash, 16, 4).for_each(|card| counts[card] += 1);
        }
        let each = u32::try_from(hands * 4 / 16).unwrap();
        assert!(counts.iter().all(|count| *count == each), "{counts:?}");
    }
}
