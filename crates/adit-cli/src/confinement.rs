//! Options of the command line for the rights that a daemon keeps.

use adit_device::Confinement;

/// Once its interface is there, a daemon gives up what serving it does not take; each of these keeps something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Confinement")]
pub(crate) struct ConfinementArgs {
    /// Keep every capability, not only CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, and CAP_IPC_LOCK where locked memory takes
    /// it
    #[arg(long)]
    keep_capabilities: bool,

    /// Let programs started from the daemon gain rights by their files (no `no_new_privs`)
    #[arg(long, requires_all = ["no_seccomp", "no_landlock"])]
    allow_new_privileges: bool,

    /// Do not filter system calls
    #[arg(long)]
    no_seccomp: bool,

    /// Do not restrict files, TCP and signals by Landlock
    #[arg(long)]
    no_landlock: bool,

    /// Allow core dumps, which hold keys, and debuggers
    #[arg(long)]
    allow_core_dumps: bool,

    /// Do not lock memory: keys may be swapped out
    #[arg(long)]
    no_mlock: bool,

    /// Never start another program, not even the next version of this one: `adit reload` is refused
    #[arg(long)]
    no_reload: bool,
}

impl ConfinementArgs {
    /// What is to be given up.
    pub(crate) fn confinement(&self) -> Confinement {
        Confinement {
            drop_capabilities: !self.keep_capabilities,
            no_new_privileges: !self.allow_new_privileges,
            seccomp: !self.no_seccomp,
            landlock: !self.no_landlock,
            no_core_dumps: !self.allow_core_dumps,
            lock_memory: !self.no_mlock,
            reload: !self.no_reload,
        }
    }

    /// The same for the command line of another process.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        [
            (self.keep_capabilities, "--keep-capabilities"),
            (self.allow_new_privileges, "--allow-new-privileges"),
            (self.no_seccomp, "--no-seccomp"),
            (self.no_landlock, "--no-landlock"),
            (self.allow_core_dumps, "--allow-core-dumps"),
            (self.no_mlock, "--no-mlock"),
            (self.no_reload, "--no-reload"),
        ]
        .into_iter()
        .filter_map(|(is_given, word)| is_given.then_some(word))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        confinement: ConfinementArgs,
    }

    const ALL: [&str; 7] = [
        "--keep-capabilities",
        "--allow-new-privileges",
        "--no-seccomp",
        "--no-landlock",
        "--allow-core-dumps",
        "--no-mlock",
        "--no-reload",
    ];

    fn parse(words: &[&'static str]) -> Result<ConfinementArgs, clap::Error> {
        Line::try_parse_from([&["adit"], words].concat()).map(|line| line.confinement)
    }

    #[test]
    fn everything_is_given_up_unless_it_is_said_otherwise() {
        assert_eq!(parse(&[]).unwrap().confinement(), Confinement::FULL);
        assert_eq!(parse(&ALL).unwrap().confinement(), Confinement { reload: false, ..Confinement::NONE });
    }

    #[test]
    fn each_word_keeps_one_thing_and_reaches_a_daemon_in_the_background() {
        let mut seen = vec![Confinement::FULL];
        for word in ALL.into_iter().filter(|word| *word != "--allow-new-privileges") {
            let args = parse(&[word]).unwrap();
            assert_eq!(args.words().collect::<Vec<_>>(), [word]);
            assert!(!seen.contains(&args.confinement()), "{word} does nothing, or what another does");
            seen.push(args.confinement());
        }
        assert!(parse(&ALL).unwrap().words().eq(ALL));
    }

    #[test]
    fn filters_without_no_new_privs_are_refused() {
        assert!(parse(&["--allow-new-privileges"]).is_err());
        assert!(parse(&["--allow-new-privileges", "--no-seccomp"]).is_err());
        assert!(parse(&["--allow-new-privileges", "--no-seccomp", "--no-landlock"]).is_ok());
    }
}
