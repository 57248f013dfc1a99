//! Numbers as people read them.

use std::fmt;
use std::time::Duration;

/// How fast that is, in 10⁹ bit/s.
pub(super) fn gigabits(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 * 8.0 / time.as_secs_f64() / 1e9 }
}

/// A number of bytes, for people.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.2} GB", bytes / 1e9),
            _ => write!(f, "{:.2} TB", bytes / 1e12),
        }
    }
}

/// A count, for people.
pub(super) struct Grouped(pub(super) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A delay, for people.
pub(super) struct Time(pub(super) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros < 1_000 { write!(f, "{micros} µs") } else { write!(f, "{:.2} ms", self.0.as_secs_f64() * 1e3) }
    }
}

/// When something was, if it was.
pub(super) struct Ago(pub(super) Option<Duration>);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{} s ago", time.as_secs()),
            None => f.write_str("none yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        let bytes = [0, 999, 1_000, 1_500_000, 2_345_000_000, 1 << 40].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(bytes, ["0 B", "999 B", "1.0 kB", "1.5 MB", "2.35 GB", "1.10 TB"]);
        let counts = [0, 999, 1_000, 1_234_567].map(|count| Grouped(count).to_string());
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(Time(Duration::from_nanos(999_999)).to_string(), "999 µs");
        assert_eq!(Time(Duration::from_micros(1_000)).to_string(), "1.00 ms");
        assert_eq!(Ago(None).to_string(), "none yet");
    }
}
