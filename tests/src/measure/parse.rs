//! Reading what ping and iperf3 print.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A transfer by TCP as the receiver saw it.
#[derive(Debug, PartialEq)]
pub struct Tcp {
    /// On average.
    pub bits_a_second: f64,
    /// In all.
    pub bytes: f64,
}

/// A stream of UDP datagrams as the receiver saw it.
#[derive(Debug, PartialEq)]
pub struct Udp {
    /// Datagrams that arrived.
    pub delivered: f64,
    /// How long it took.
    pub seconds: f64,
    /// Of what was sent.
    pub lost_percent: f64,
}

/// Reads the report of a TCP client, `iperf3 -J`.
pub fn tcp(report: &str) -> Result<Tcp> {
    let end = end(report)?;
    let received = end.get("sum_received").context("iperf3 reports no receiver")?;
    let tcp = Tcp { bits_a_second: number(received, "bits_per_second")?, bytes: number(received, "bytes")? };
    if tcp.bytes <= 0.0 {
        bail!("nothing arrived");
    }
    Ok(tcp)
}

/// Reads the report of a UDP client, `iperf3 -u -J`.
pub fn udp(report: &str) -> Result<Udp> {
    let end = end(report)?;
    // Older versions have one sum, with the receiver's losses in it.
    let received = end.get("sum_received").or_else(|| end.get("sum")).context("iperf3 reports no receiver")?;
    let seen = number(received, "packets")?;
    let delivered = seen - number(received, "lost_packets")?;
    if delivered <= 0.0 {
        bail!("nothing arrived");
    }
    // The receiver cannot miss what was lost after the last that it got, so the losses are counted against the sender.
    let sent = end.get("sum_sent").and_then(|sent| number(sent, "packets").ok()).unwrap_or(seen).max(seen);
    Ok(Udp { delivered, seconds: number(received, "seconds")?, lost_percent: 100.0 * (1.0 - delivered / sent) })
}

/// Reads the mean round-trip time, in microseconds, from what `ping -q` prints.
pub fn ping(output: &str) -> Result<f64> {
    let line = output.lines().find(|line| line.starts_with("rtt ")).context("no ping was answered")?;
    let (_, values) = line.split_once(" = ").context("ping prints no times")?;
    let mean = values.split('/').nth(1).context("ping prints no mean")?;
    Ok(1000.0 * mean.parse::<f64>().context("ping prints no number")?)
}

fn end(report: &str) -> Result<Value> {
    let mut report: Value = serde_json::from_str(report).context("iperf3 prints no report")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    report.get_mut("end").map(Value::take).context("iperf3's report has no end")
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value.get(key).and_then(Value::as_f64).with_context(|| format!("iperf3 reports no {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_is_what_the_receiver_got() {
        let report = r#"{"start": {}, "end": {
            "sum_sent": {"bytes": 2000, "bits_per_second": 16000.5},
            "sum_received": {"bytes": 1000, "bits_per_second": 8000.5}}}"#;
        assert_eq!(tcp(report).unwrap(), Tcp { bits_a_second: 8000.5, bytes: 1000.0 });
    }

    #[test]
    fn udp_losses_are_counted_against_the_sender() {
        let report = r#"{"end": {
            "sum": {"packets": 1000, "lost_packets": 100, "seconds": 1.0},
            "sum_sent": {"packets": 1000, "lost_packets": 0, "seconds": 1.0},
            "sum_received": {"packets": 900, "lost_packets": 150, "seconds": 1.25}}}"#;
        assert_eq!(udp(report).unwrap(), Udp { delivered: 750.0, seconds: 1.25, lost_percent: 25.0 });
    }

    #[test]
    fn udp_is_read_from_reports_with_one_sum() {
        let report = r#"{"end": {"sum": {"packets": 1000, "lost_packets": 500, "seconds": 2.0}}}"#;
        assert_eq!(udp(report).unwrap(), Udp { delivered: 500.0, seconds: 2.0, lost_percent: 50.0 });
    }

    #[test]
    fn an_error_of_iperf3_is_an_error() {
        let report = r#"{"start": {}, "end": {}, "error": "unable to connect to server"}"#;
        assert!(tcp(report).unwrap_err().to_string().contains("unable to connect"));
        assert!(udp(report).unwrap_err().to_string().contains("unable to connect"));
    }

    #[test]
    fn a_transfer_of_nothing_is_an_error() {
        let nothing =
            r#"{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0, "packets": 0, "lost_packets": 0}}}"#;
        assert!(tcp(nothing).is_err());
        assert!(udp(nothing).is_err());
        assert!(tcp("").is_err());
    }

    #[test]
    fn ping_is_the_mean_in_microseconds() {
        let output = "--- 10.0.0.2 ping statistics ---\n300 packets transmitted, 300 received, 0% packet loss, time 1495ms\n\
                      rtt min/avg/max/mdev = 0.150/0.196/0.402/0.031 ms, pipe 2\n";
        assert!((ping(output).unwrap() - 196.0).abs() < 1e-9);
    }

    #[test]
    fn unanswered_pings_have_no_mean() {
        assert!(ping("3 packets transmitted, 0 received, 100% packet loss, time 2000ms\n\n").is_err());
    }
}
