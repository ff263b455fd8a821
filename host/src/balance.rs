//! Whether a worker should take another connection, or leave it to one that has fewer.
//!
//! Owns the rule, and nothing that it is asked about: numbers come from the scoreboard. A connection that is kept counts
//! as long as it is open, whatever it does. With `EPOLLEXCLUSIVE` alone the kernel gave four keep-alive clients to one
//! of four workers, and 64 clients unevenly by 1.6 to 2.95.
//!
//! What a newcomer would get wrong: the rule must never refuse for everybody. The worker with the fewest is at or below
//! the mean by arithmetic; but each worker reads the others' numbers at another moment, so that the rule says it once
//! more. Numbers come from other processes and may be anything: they are cut to [`MOST`].

/// How many connections beyond the mean a worker may take. Without slack a worker that is at the mean waits for the
/// others to be exactly even, while clients wait for them.
const SLACK: u64 = 1;
/// And one more for this many of the mean.
const SLACK_SHARE: u64 = 32;
/// No worker has more; a number above is somebody's scribble.
pub const MOST: u64 = 1 << 20;

/// Whether a worker that holds `own` connections may take another, while its peers, which serve the same listeners, hold
/// as many as `others` says.
pub fn may_take_another(own: u64, others: impl Iterator<Item = u64>) -> bool {
    let own = own.min(MOST);
    if own <= SLACK {
        return true; // Whatever the mean is: it is not negative.
    }
    let (mut workers, mut sum, mut fewest) = (1, own, own);
    for open in others {
        let open = open.min(MOST);
        workers += 1;
        sum += open;
        fewest = fewest.min(open);
    }
    let slack = SLACK + sum / workers / SLACK_SHARE;
    own <= fewest || own * workers < sum + slack * workers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `clients` connections to `workers` workers, and returns how many each has. `order` says whom the kernel asks
    /// first, second …, for each client.
    fn settle(workers: usize, clients: usize, mut order: impl FnMut(usize) -> Vec<usize>) -> Vec<u64> {
        let mut open = vec![0; workers];
        for client in 0..clients {
            let may = |worker: &usize| may_take_another(open[*worker], others(&open, *worker));
            let taker = order(client).into_iter().find(may).expect("not all refuse");
            open[taker] += 1;
        }
        open
    }

    fn others(open: &[u64], own: usize) -> impl Iterator<Item = u64> {
        open.iter().enumerate().filter(move |(worker, _)| *worker != own).map(|(_, open)| *open)
    }

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn shuffled(workers: usize, state: &mut u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..workers).collect();
        for last in (1..workers).rev() {
            order.swap(last, (random(state) % (last as u64 + 1)) as usize);
        }
        order
    }

    fn spread(open: &[u64]) -> f64 {
        *open.iter().max().unwrap() as f64 / *open.iter().min().unwrap() as f64
    }

    #[test]
    fn sixty_four_clients_on_four_workers_are_even_within_half() {
        let one_first = settle(4, 64, |_| (0..4).collect());
        assert!(spread(&one_first) < 1.5, "{one_first:?}");
        let turns = settle(4, 64, |client| (0..4).map(|at| (client + at) % 4).collect());
        assert!(spread(&turns) < 1.5, "{turns:?}");
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..1000 {
            let chance = settle(4, 64, |_| shuffled(4, &mut state));
            assert!(spread(&chance) < 1.5, "{chance:?}");
        }
    }

    #[test]
    fn the_one_with_the_fewest_always_may_and_so_does_one_alone() {
        let mut state = 0x2545_f491_4f6c_dd1d;
        for _ in 0..10_000 {
            let workers = 1 + random(&mut state) as usize % 16;
            let most = 1 << (random(&mut state) % 40);
            let open: Vec<u64> = (0..workers).map(|_| random(&mut state) % most).collect();
            let fewest = (0..workers).min_by_key(|worker| open[*worker]).unwrap();
            assert!(may_take_another(open[fewest], others(&open, fewest)), "{open:?}");
        }
        assert!(may_take_another(MOST, std::iter::empty()));
    }

    #[test]
    fn the_slack_grows_with_the_mean() {
        let (mean, even) = (320, [320, 320, 320]);
        assert!(may_take_another(mean + 14, even.into_iter()));
        assert!(!may_take_another(mean + 15, even.into_iter()));
        assert!(may_take_another(2, [0, 3].into_iter()) && !may_take_another(3, [0, 2].into_iter()));
    }

    #[test]
    fn wild_numbers_neither_overflow_nor_lock_anybody_out() {
        assert!(may_take_another(1000, std::iter::repeat_n(u64::MAX, 4096)));
        assert!(may_take_another(u64::MAX, std::iter::repeat_n(u64::MAX, 4096)));
    }
}
