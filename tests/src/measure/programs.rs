//! Running programs for so long at most, and making an error of whatever goes wrong.

use std::any::Any;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::command::Background;
use crate::host::Host;
use crate::measure::interrupt;
use crate::wait::for_a_while;

/// Runs a program on a host, for so many seconds at most, and hands back what it prints.
pub fn run(host: &Host, seconds: u32, program: &str, arguments: &[&str]) -> Result<String> {
    run_with_input(host, seconds, program, arguments, "")
}

/// Runs a program on a host, for so many seconds at most, with something to read.
pub fn run_with_input(host: &Host, limit: u32, program: &str, arguments: &[&str], input: &str) -> Result<String> {
    interrupt::check()?;
    let seconds = limit.to_string();
    let mut words = vec!["-k", "2", &seconds, program];
    words.extend(arguments);
    let start = Instant::now();
    let outcome = host.run_with_input("timeout", &words, input);
    if !outcome.is_success() {
        // iperf3 tells its errors on standard output, in JSON over many lines.
        let text = outcome.stderr() + &outcome.stdout();
        let said = text.lines().find(|line| line.contains("error")).or(text.lines().next());
        let said = match said {
            Some(line) => line.trim().to_owned(),
            None if start.elapsed().as_secs() >= limit.into() => format!("not done within {limit} s"),
            None => "fails without a word".to_owned(),
        };
        bail!("{program} {}: {said}", arguments.first().unwrap_or(&""));
    }
    Ok(outcome.stdout())
}

/// The report of an iperf3 client on one host with a server on the other, after a transfer of so many seconds.
pub fn iperf3(near: &Host, far: &Host, address: IpAddr, seconds: u32, arguments: &[&str]) -> Result<String> {
    let mut server = iperf3_server(far, address)?;
    let (address, time) = (address.to_string(), seconds.to_string());
    let mut words = vec!["-J", "--connect-timeout", "5000", "-t", &time, "-c", &address];
    words.extend(arguments);
    let report = run(near, seconds + 15, "iperf3", &words)?;
    // It serves one client and ends; one that stays is ended with its value.
    let _ended = for_a_while(Duration::from_secs(2), || server.ended());
    Ok(report)
}

fn iperf3_server(host: &Host, address: IpAddr) -> Result<Background> {
    interrupt::check()?;
    let mut command = Command::new("iperf3");
    command.args(["-s", "-1", "-B", &address.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = host.start(command);
    let listening = for_a_while(Duration::from_secs(10), || {
        let sockets = host.run("ss", &["-Hltn", "sport = :5201"]).stdout();
        (!sockets.trim().is_empty() || server.ended().is_some()).then_some(())
    });
    listening.context("the iperf3 server does not listen")?;
    match server.ended() {
        Some(status) => Err(anyhow!("the iperf3 server ended at once: {status}")),
        None => Ok(server),
    }
}

/// The harness panics when something that has to work does not; for who measures, that is a figure that is missing.
pub fn guarded<T>(action: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| Err(anyhow!("{}", message(panic.as_ref()))))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let error = guarded::<()>(|| panic!("no {}", "socket")).unwrap_err();
        assert_eq!(error.to_string(), "no socket");
        assert_eq!(guarded::<()>(|| panic!("plain")).unwrap_err().to_string(), "plain");
    }
}
