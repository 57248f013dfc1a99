//! Who is measured after whom.

/// The order of round number `round`: each begins with another, and each has another before it than in the round
/// before, so that what one leaves behind does not always fall to the same other.
pub fn turn<T: Copy>(all: &[T], round: usize) -> Vec<T> {
    let count = all.len();
    let strides: Vec<usize> = (1..=count).filter(|&stride| is_coprime(stride, count)).collect();
    let Some(stride) = strides.get(round % strides.len().max(1)) else { return Vec::new() };
    (0..count).filter_map(|place| all.get((round + place * stride) % count)).copied().collect()
}

fn is_coprime(a: usize, b: usize) -> bool {
    if b == 0 { a == 1 } else { is_coprime(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_has_a_turn_in_every_round() {
        for count in 0..7 {
            let all: Vec<usize> = (0..count).collect();
            for round in 0..20 {
                let mut order = turn(&all, round);
                order.sort_unstable();
                assert_eq!(order, all);
            }
        }
    }

    #[test]
    fn everybody_follows_another_than_in_the_round_before_and_each_begins_in_turn() {
        let all = ['a', 'b', 'c', 'd', 'e'];
        let orders: Vec<Vec<char>> = (0..5).map(|round| turn(&all, round)).collect();
        let first: BTreeSet<char> = orders.iter().map(|order| order[0]).collect();
        assert_eq!(first.len(), all.len());
        for two in orders.windows(2) {
            let pairs = two.iter().flat_map(|order| order.windows(2).map(<[char]>::to_vec));
            assert_eq!(pairs.collect::<BTreeSet<_>>().len(), 8);
        }
    }
}
