//! How many times as fast as `ring` and AWS-LC the backends are, with eight packets at a time.
//!
//! All take turns of some ten microseconds, and each round gives its own ratios: other guests of the machine, and the
//! clock of the CPU, change more slowly than that. The medians of all rounds are told.

use std::time::Duration;

use adit_benches::{Batch, Contestant};

const COUNT: usize = 8;
const LENGTHS: [usize; 3] = [64, 256, 1440];
/// Text in a turn.
const BYTES: usize = 32 * 1024;

fn main() {
    // `cargo test` runs this too, to see that it runs.
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_measured { 1_000 } else { 1 };
    // The third library is so slow that its turns would be most of the time.
    let contestants = Contestant::all().filter(|contestant| !matches!(contestant, Contestant::RustCrypto(_)));
    let contestants: Vec<Contestant> = contestants.collect();
    let ours = contestants.iter().filter(|contestant| matches!(contestant, Contestant::Adit(..))).count();

    print!("| {COUNT} packets at a time |");
    contestants[..ours].iter().for_each(|contestant| print!(" {}, µs |", contestant.name()));
    for contestant in &contestants[..ours] {
        contestants[ours..].iter().for_each(|other| print!(" {} against {} |", contestant.name(), other.name()));
    }
    println!("\n|---|{}", "---:|".repeat(ours * (1 + contestants.len() - ours)));
    for length in LENGTHS {
        for (what, prepare, work) in [
            (
                "seal",
                (|_, _| {}) as fn(&Contestant, &mut Batch<'_>),
                Contestant::seal as fn(&Contestant, &mut Batch<'_>),
            ),
            ("open", |contestant, batch| contestant.seal(batch), Contestant::open),
        ] {
            let turns = (BYTES / (COUNT * length)).max(1) as u64;
            // For each round, what each takes for a batch, in microseconds.
            let times: Vec<Vec<f64>> = (0..rounds)
                .map(|_| {
                    let time = |contestant: &Contestant| contestant.time(length, COUNT, turns, prepare, work);
                    contestants.iter().map(|contestant| micros(time(contestant)) / turns as f64).collect()
                })
                .collect();
            print!("| {what}, {length} bytes |");
            (0..ours).for_each(|i| print!(" {:.2} |", median(times.iter().map(|round| round[i]))));
            for i in 0..ours {
                for other in ours..contestants.len() {
                    print!(" {:.2} × |", median(times.iter().map(|round| round[other] / round[i])));
                }
            }
            println!();
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
