//! seccomp: the system calls that may be made.
//!
//! There are two lists. A call from [`DEADLY`], which attackers make but no daemon that serves a tunnel does, is proof
//! of a break-in and ends the process. Everything else that is not among [`PERMITTED`] is refused with EPERM: if a C
//! library comes to prefer another call it gets an error, for which it more often than not has a fallback, and the
//! tunnel stays up.
//!
//! A call whose arguments matter is permitted with those that serving takes ([`permitted`]). What is behind a pointer a
//! filter cannot see: neither a path, nor an address, nor what a netlink message asks for.
//!
//! `clone3` takes its flags by a pointer, where a filter cannot look. It is answered with ENOSYS, upon which every C
//! library falls back to `clone`, whose flags can be checked for namespaces.

use std::collections::BTreeMap;

use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::sys::{MARK, TUNGETDEVNETNS};

/// The error that answers [`MARK`]; no kernel gives it.
pub(super) const MARK_ANSWER: i32 = c::EOWNERDEAD;

/// The flags of `clone` that make namespaces.
const NAMESPACES: i32 = c::CLONE_NEWNS
    | c::CLONE_NEWCGROUP
    | c::CLONE_NEWUTS
    | c::CLONE_NEWIPC
    | c::CLONE_NEWUSER
    | c::CLONE_NEWPID
    | c::CLONE_NEWNET;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What the filters have to know of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// The next version may be started from here.
    pub(super) reload: bool,
    /// Landlock tells files apart.
    pub(super) has_landlock: bool,
    /// A service manager is to be told, by this version and by the next.
    pub(super) has_manager: bool,
}

/// Installs the filters for the calling thread and those that it will start.
pub(super) fn install(situation: Situation) -> Result<(), String> {
    let mut deadly: Rules = DEADLY.iter().map(|&call| (call, Vec::new())).collect();
    let mut permitted = permitted(situation).map_err(|error| error.to_string())?;
    let starts_programs = [c::SYS_execve, c::SYS_execveat].map(|call| (call, Vec::new()));
    if situation.reload {
        permitted.extend(starts_programs)
    } else {
        deadly.extend(starts_programs)
    }

    let mark = vec![rule([equals(0, MARK.into())]).map_err(|error| error.to_string())?];
    let absent = Rules::from([(c::SYS_clone3, Vec::new())]);
    // If two filters refuse a call, the error of the younger one is told: this one permits it, so that it is ENOSYS.
    permitted.insert(c::SYS_clone3, Vec::new());
    let known = Rules::from([(c::SYS_prctl, mark)]);
    let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    // The permitted list comes last, since it also applies to the calls that install further filters.
    for (rules, matched, unmatched) in [
        (deadly, SeccompAction::KillProcess, SeccompAction::Allow),
        (absent, errno(c::ENOSYS), SeccompAction::Allow),
        (known, errno(MARK_ANSWER), SeccompAction::Allow),
        (permitted, SeccompAction::Allow, errno(c::EPERM)),
    ] {
        let program: BpfProgram = std::env::consts::ARCH
            .try_into()
            .and_then(|architecture| SeccompFilter::new(rules, unmatched, matched, architecture)?.try_into())
            .map_err(|error| error.to_string())?;
        seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Calls that end the process.
const DEADLY: &[i64] = &[
    // Other processes.
    c::SYS_ptrace,
    c::SYS_process_vm_readv,
    c::SYS_process_vm_writev,
    c::SYS_kcmp,
    c::SYS_pidfd_getfd,
    // The kernel.
    c::SYS_bpf,
    c::SYS_perf_event_open,
    c::SYS_userfaultfd,
    c::SYS_io_uring_setup,
    c::SYS_io_uring_enter,
    c::SYS_io_uring_register,
    c::SYS_init_module,
    c::SYS_finit_module,
    c::SYS_delete_module,
    c::SYS_kexec_load,
    c::SYS_reboot,
    c::SYS_add_key,
    c::SYS_request_key,
    c::SYS_keyctl,
    // What the process sees of the system.
    c::SYS_mount,
    c::SYS_umount2,
    c::SYS_pivot_root,
    c::SYS_chroot,
    c::SYS_setns,
    c::SYS_unshare,
    c::SYS_open_by_handle_at,
    c::SYS_name_to_handle_at,
    c::SYS_open_tree,
    c::SYS_move_mount,
    c::SYS_fsopen,
    c::SYS_fsmount,
    c::SYS_swapon,
    c::SYS_swapoff,
    c::SYS_settimeofday,
    c::SYS_clock_settime,
];

/// Calls permitted whatever their arguments.
pub(super) const PERMITTED: &[i64] = &[
    // Packets, clients, signals, news of links.
    c::SYS_read,
    c::SYS_write,
    c::SYS_readv,
    c::SYS_writev,
    c::SYS_pread64,
    c::SYS_pwrite64,
    c::SYS_sendto,
    c::SYS_recvfrom,
    c::SYS_sendmsg,
    c::SYS_recvmsg,
    c::SYS_sendmmsg,
    c::SYS_recvmmsg,
    c::SYS_epoll_create1,
    c::SYS_epoll_ctl,
    c::SYS_epoll_pwait,
    c::SYS_epoll_pwait2,
    c::SYS_ppoll,
    c::SYS_pselect6,
    c::SYS_eventfd2,
    c::SYS_pipe2,
    c::SYS_bind,
    c::SYS_connect,
    c::SYS_listen,
    c::SYS_accept,
    c::SYS_accept4,
    c::SYS_shutdown,
    c::SYS_getsockname,
    c::SYS_getpeername,
    c::SYS_getsockopt,
    c::SYS_inotify_init1,
    c::SYS_inotify_add_watch,
    c::SYS_inotify_rm_watch,
    // Files; which ones is Landlock's business.
    c::SYS_close,
    c::SYS_close_range,
    c::SYS_dup,
    c::SYS_dup3,
    c::SYS_lseek,
    c::SYS_fstat,
    c::SYS_newfstatat,
    c::SYS_statx,
    c::SYS_faccessat,
    c::SYS_faccessat2,
    c::SYS_readlinkat,
    c::SYS_getdents64,
    c::SYS_getcwd,
    c::SYS_chdir,
    c::SYS_fchdir,
    // Memory.
    c::SYS_brk,
    c::SYS_munmap,
    c::SYS_mremap,
    c::SYS_madvise,
    c::SYS_mlock,
    c::SYS_mlock2,
    c::SYS_mlockall,
    c::SYS_munlock,
    c::SYS_munlockall,
    c::SYS_membarrier,
    // Threads and time.
    c::SYS_futex,
    c::SYS_set_robust_list,
    c::SYS_set_tid_address,
    c::SYS_rseq,
    c::SYS_gettid,
    c::SYS_getpid,
    c::SYS_getppid,
    c::SYS_sched_yield,
    c::SYS_sched_getaffinity,
    c::SYS_getcpu,
    c::SYS_clock_gettime,
    c::SYS_clock_getres,
    c::SYS_clock_nanosleep,
    c::SYS_nanosleep,
    c::SYS_gettimeofday,
    c::SYS_timerfd_create,
    c::SYS_timerfd_settime,
    c::SYS_timerfd_gettime,
    c::SYS_getrandom,
    c::SYS_getrusage,
    c::SYS_sysinfo,
    c::SYS_uname,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_rt_sigtimedwait,
    c::SYS_signalfd4,
    c::SYS_sigaltstack,
    c::SYS_restart_syscall,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_wait4,
    c::SYS_waitid,
    // Who the process is, and giving up more of it.
    c::SYS_getuid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_getegid,
    c::SYS_getpgid,
    c::SYS_setsid,
    c::SYS_capget,
    c::SYS_capset,
    c::SYS_seccomp,
    c::SYS_landlock_create_ruleset,
    c::SYS_landlock_add_rule,
    c::SYS_landlock_restrict_self,
];

/// Calls that older architectures have beside those above.
#[cfg(target_arch = "x86_64")]
pub(super) const PERMITTED_OLD: &[i64] = &[
    c::SYS_access,
    c::SYS_arch_prctl,
    c::SYS_dup2,
    c::SYS_epoll_create,
    c::SYS_epoll_wait,
    c::SYS_getpgrp,
    c::SYS_lstat,
    c::SYS_pipe,
    c::SYS_poll,
    c::SYS_readlink,
    c::SYS_select,
    c::SYS_stat,
    c::SYS_time,
    c::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const PERMITTED_OLD: &[i64] = &[];

/// A condition on an argument of a call.
type Condition = Result<SeccompCondition, seccompiler::BackendError>;
/// What a call's arguments may be.
type Rule = Result<SeccompRule, seccompiler::BackendError>;

fn permitted(situation: Situation) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = PERMITTED.iter().chain(PERMITTED_OLD).map(|&call| (call, Vec::new())).collect();
    let mut by_arguments = vec![
        (c::SYS_socket, sockets(situation)),
        // One half of a pair of datagram sockets could send to other sockets as well; one of a stream could not.
        (c::SYS_socketpair, vec![rule([equals(0, c::AF_UNIX as u64), socket_kind(c::SOCK_STREAM)])]),
        (c::SYS_setsockopt, socket_options()),
        (c::SYS_ioctl, requests()),
        (c::SYS_prctl, operations_on_itself()),
        (c::SYS_fcntl, descriptor_commands()),
        // Its own limits and processors, not those of another process.
        (c::SYS_prlimit64, vec![rule([equals(0, 0)])]),
        (c::SYS_sched_setaffinity, vec![rule([equals(0, 0)])]),
        (c::SYS_tgkill, vec![abort(situation)]),
        (c::SYS_clone, vec![rule([masked(0, NAMESPACES as u64, 0)])]),
        (c::SYS_mmap, mappings()),
        (c::SYS_mprotect, vec![rule([masked(2, c::PROT_EXEC as u64, 0)])]),
        (c::SYS_openat, opening(situation, 2)),
        #[cfg(target_arch = "x86_64")]
        (c::SYS_open, opening(situation, 1)),
        // No folder is removed.
        (c::SYS_unlinkat, vec![rule([equals(2, 0)])]),
    ];
    if situation.reload {
        by_arguments.push((c::SYS_kill, signals_to_versions()));
    }
    for (call, one_of) in by_arguments {
        rules.insert(call, one_of.into_iter().collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

fn socket_kind(kind: i32) -> Condition {
    masked(1, 0xf, kind as u64)
}

/// Of IP only UDP, by its number or by the 0 that stands for it; of netlink only what concerns links.
fn sockets(situation: Situation) -> Vec<Rule> {
    let mut sockets = vec![
        (c::AF_INET, c::SOCK_DGRAM, Some(0)),
        (c::AF_INET, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
        (c::AF_INET6, c::SOCK_DGRAM, Some(0)),
        (c::AF_INET6, c::SOCK_DGRAM, Some(c::IPPROTO_UDP)),
        (c::AF_NETLINK, c::SOCK_DGRAM, Some(c::NETLINK_ROUTE)),
        (c::AF_NETLINK, c::SOCK_RAW, Some(c::NETLINK_ROUTE)),
    ];
    // Words to a service manager are datagrams. Where there is none, no Unix socket leads anywhere: a stream would lead
    // to other services, and datagrams to some.
    sockets.extend(situation.has_manager.then_some((c::AF_UNIX, c::SOCK_DGRAM, None)));
    let socket = |(family, kind, protocol): (i32, i32, Option<i32>)| {
        let protocol = protocol.map(|protocol| equals(2, protocol as u64));
        rule([equals(0, family as u64), socket_kind(kind)].into_iter().chain(protocol))
    };
    sockets.into_iter().map(socket).collect()
}

/// The numbers from 64 on (IPv4), and 64 and 65 (IPv6), belong to the firewall; others to IPsec; UDP has some for other
/// tunnels. In all of these, holes have been found more than once. Of the programs that a socket can be given, the one
/// that is needed chooses between sockets.
fn socket_options() -> Vec<Rule> {
    let level = |level: i32| equals(1, level as u64);
    let is = |option: i32| equals(2, option as u64);
    let is_not = |option: i32| compare(2, SeccompCmpOp::Ne, option as u64);
    let below = |option: u64| compare(2, SeccompCmpOp::Lt, option);
    let programs = [c::SO_ATTACH_FILTER, c::SO_ATTACH_BPF, c::SO_ATTACH_REUSEPORT_EBPF];
    vec![
        rule([level(c::SOL_SOCKET)].into_iter().chain(programs.map(is_not))),
        rule([level(c::SOL_UDP), is(c::UDP_SEGMENT)]),
        rule([level(c::SOL_UDP), is(c::UDP_GRO)]),
        rule([level(c::SOL_NETLINK)]),
        rule([level(c::SOL_IP), is_not(c::IP_IPSEC_POLICY), is_not(c::IP_XFRM_POLICY), below(64)]),
        rule([level(c::SOL_IPV6), is_not(c::IPV6_IPSEC_POLICY), is_not(c::IPV6_XFRM_POLICY), below(64)]),
        rule([level(c::SOL_IPV6), compare(2, SeccompCmpOp::Gt, 65)]),
    ]
}

/// What may be asked of a device or a socket.
fn requests() -> Vec<Rule> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    let requests = [
        c::FIONBIO as u64,
        c::FIOCLEX as u64,
        c::FIONREAD as u64,
        c::TIOCOUTQ as u64,
        c::TCGETS as u64,
        c::SIOCGIFINDEX as u64,
        c::TUNGETIFF as u64,
        c::TUNSETOFFLOAD as u64,
        c::TUNSETVNETHDRSZ as u64,
        c::TUNGETVNETHDRSZ as u64,
        c::TUNSETQUEUE as u64,
        TUNGETDEVNETNS.into(),
    ];
    requests.map(|request| rule([equals(1, request)])).into()
}

fn operations_on_itself() -> Vec<Rule> {
    let operations = [
        c::PR_SET_NAME,
        c::PR_GET_NAME,
        c::PR_SET_VMA,
        c::PR_GET_DUMPABLE,
        c::PR_SET_PDEATHSIG,
        c::PR_GET_SECCOMP,
        c::PR_GET_NO_NEW_PRIVS,
        c::PR_SET_NO_NEW_PRIVS,
        c::PR_CAPBSET_READ,
        c::PR_CAP_AMBIENT,
        MARK as i32,
    ];
    let operations = operations.map(|operation| rule([equals(0, operation as u64)])).into_iter();
    // A process that has been made opaque stays so.
    let opaque = rule([equals(0, c::PR_SET_DUMPABLE as u64), equals(1, 0)]);
    operations.chain([opaque]).collect()
}

/// Other commands would have signals sent to any process of the user's, in the kernel's name.
fn descriptor_commands() -> Vec<Rule> {
    let commands = [c::F_DUPFD, c::F_DUPFD_CLOEXEC, c::F_GETFD, c::F_SETFD, c::F_GETFL, c::F_SETFL];
    commands.map(|command| rule([equals(1, command as u64)])).into()
}

/// A panic ends the process by this. Where there is a next version, it will have another number.
fn abort(situation: Situation) -> Rule {
    let itself = (!situation.reload).then(|| equals(0, std::process::id().into()));
    rule([equals(2, c::SIGABRT as u64)].into_iter().chain(itself))
}

/// Signals that the versions of this program send to each other, and only to one process at a time: which one, is
/// Landlock's business.
fn signals_to_versions() -> Vec<Rule> {
    let one_process = || [compare(0, SeccompCmpOp::Gt, 0), compare(0, SeccompCmpOp::Le, i32::MAX as u64)];
    let signal = |signal: i32| rule(one_process().into_iter().chain([equals(1, signal as u64)]));
    [c::SIGTERM, c::SIGKILL].map(signal).into()
}

/// No memory that can be both written and executed, and none that is first written and then made executable
/// (`mprotect`).
fn mappings() -> Vec<Rule> {
    let both = (c::PROT_WRITE | c::PROT_EXEC) as u64;
    let rights = [c::PROT_NONE, c::PROT_WRITE, c::PROT_EXEC];
    rights.map(|right| rule([masked(2, both, right as u64)])).into()
}

/// No file is created or truncated, which the first versions of Landlock do not all prevent. Without Landlock to tell
/// files apart, none is opened for writing either: the kernel's own check lets root write most of them.
fn opening(situation: Situation, flags: u8) -> Vec<Rule> {
    let changes = c::O_CREAT | c::O_TRUNC | (c::O_TMPFILE & !c::O_DIRECTORY);
    let refused = if situation.has_landlock { changes } else { changes | c::O_ACCMODE } as u64;
    vec![rule([masked(flags, refused, 0)])]
}

/// All of these conditions.
fn rule(conditions: impl IntoIterator<Item = Condition>) -> Rule {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn equals(argument: u8, value: u64) -> Condition {
    compare(argument, SeccompCmpOp::Eq, value)
}

/// The bits of `mask` are those of `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    compare(argument, SeccompCmpOp::MaskedEq(mask), value)
}

/// Every argument looked at is a C `int`, or has nothing in its upper half that matters.
fn compare(argument: u8, operator: SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}
