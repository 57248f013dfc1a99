//! System calls by their numbers: those that end the process, those that are refused, and that serving makes.
//!
//! The lists are written anew here, not taken from the filter: a line more or less there is to fail a test.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;

use libc as c;
use rustix::thread::CapabilitySet;

use super::super::filter;
use super::*;

/// Only seccomp: what is refused is refused by it.
pub(super) const SECCOMP_ALONE: Confinement =
    Confinement { no_new_privileges: true, seccomp: true, ..Confinement::NONE };
/// In the environment of a process that makes one call: which.
const ROW: &str = "ADIT_CONFINED_TEST_ROW";
/// Before the number of the error, in what such a process says.
const ANSWER: &str = "answer ";
/// An argument that is no file, no process and no address, nor a length or a flag that the kernel takes.
const NONE: i64 = -1;
/// No process has this number: the kernel gives none above four million.
pub(super) const NOBODY: i64 = 0x3fff_ffff;

/// Makes a system call and returns the number of the error, or 0 if it succeeds.
pub(super) fn call(number: i64, arguments: [i64; 6]) -> i32 {
    answer(number, arguments).err().unwrap_or(0)
}

/// Makes a system call and returns what the kernel answers, or the number of the error.
#[allow(unsafe_code, reason = "most of these calls are in no library, since nobody is to make them like this")]
pub(super) fn answer(number: i64, arguments: [i64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are constants of these tests. Where the kernel takes an address they are `NONE` or 0, at
    // which nothing is mapped, or it refuses the call for another argument before it looks there. So it neither reads
    // nor writes memory of ours, and does not change what is mapped: whatever the filter does, the answer is an error
    // or an effect on the process as a whole, which exists for this call.
    let result = unsafe { c::syscall(number as c::c_long, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)) } else { Ok(result) }
}

/// What the filter promises of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// The process ends.
    Ends,
    /// The kernel does not see the call, which fails with EPERM.
    Refuses,
    /// The kernel seems not to have the call.
    Lacks,
    /// The kernel sees the call, and answers as it likes.
    Serves,
}

use Promise::{Ends, Lacks, Refuses, Serves};

impl Promise {
    fn is_kept(self, output: &Output) -> bool {
        let said = String::from_utf8_lossy(&output.stdout);
        let error = said.lines().find_map(|line| line.strip_prefix(ANSWER)?.parse::<i32>().ok());
        match self {
            Ends => output.status.signal() == Some(SIGSYS),
            Refuses => error == Some(c::EPERM),
            Lacks => error == Some(c::ENOSYS),
            Serves => error.is_some_and(|error| error != c::EPERM),
        }
    }
}

struct Row {
    words: &'static str,
    number: i64,
    arguments: [i64; 6],
    promise: Promise,
}

/// Rows such as `Refuses SYS_kill(0, c::SIGTERM);`. Arguments that are left out are `NONE`.
macro_rules! rows {
    ($($promise:ident $($call:ident($($argument:expr),*))+;)*) => {
        vec![$($(Row {
            words: stringify!($call($($argument),*)),
            number: c::$call,
            arguments: arguments(&[$($argument as i64),*]),
            promise: Promise::$promise,
        }),+),*]
    };
}

fn arguments(given: &[i64]) -> [i64; 6] {
    let mut all = [NONE; 6];
    all[..given.len()].copy_from_slice(given);
    all
}

/// The calls that end the process.
fn deadly() -> Vec<Row> {
    rows! {
        Ends SYS_ptrace() SYS_process_vm_readv() SYS_process_vm_writev() SYS_kcmp() SYS_pidfd_getfd() SYS_bpf()
            SYS_perf_event_open() SYS_userfaultfd() SYS_io_uring_setup() SYS_io_uring_enter() SYS_io_uring_register()
            SYS_init_module() SYS_finit_module() SYS_delete_module() SYS_kexec_load() SYS_reboot() SYS_add_key()
            SYS_request_key() SYS_keyctl() SYS_mount() SYS_umount2() SYS_pivot_root() SYS_chroot() SYS_setns()
            SYS_unshare() SYS_open_by_handle_at() SYS_name_to_handle_at() SYS_open_tree() SYS_move_mount() SYS_fsopen()
            SYS_fsmount() SYS_swapon() SYS_swapoff() SYS_settimeofday() SYS_clock_settime();
    }
}

/// The other calls that have a name and are refused whatever their arguments.
fn refused() -> Vec<Row> {
    let rows = rows! {
        Refuses SYS_msync() SYS_mincore() SYS_shmget() SYS_shmat() SYS_shmctl() SYS_getitimer() SYS_setitimer()
            SYS_sendfile() SYS_semget() SYS_semop() SYS_semctl() SYS_shmdt() SYS_msgget() SYS_msgsnd() SYS_msgrcv()
            SYS_msgctl() SYS_flock() SYS_fsync() SYS_fdatasync() SYS_truncate() SYS_ftruncate() SYS_fchmod()
            SYS_fchown() SYS_umask() SYS_times() SYS_syslog() SYS_setuid() SYS_setgid() SYS_setpgid() SYS_setreuid()
            SYS_setregid() SYS_getgroups() SYS_setgroups() SYS_setresuid() SYS_getresuid() SYS_setresgid()
            SYS_getresgid() SYS_setfsuid() SYS_setfsgid() SYS_getsid() SYS_rt_sigpending() SYS_rt_sigqueueinfo()
            SYS_rt_sigsuspend() SYS_personality() SYS_statfs() SYS_fstatfs() SYS_getpriority() SYS_setpriority()
            SYS_sched_setparam() SYS_sched_getparam() SYS_sched_setscheduler() SYS_sched_getscheduler()
            SYS_sched_get_priority_max() SYS_sched_get_priority_min() SYS_sched_rr_get_interval() SYS_vhangup()
            SYS_adjtimex() SYS_sync() SYS_acct() SYS_sethostname() SYS_setdomainname() SYS_quotactl() SYS_nfsservctl()
            SYS_readahead() SYS_setxattr() SYS_lsetxattr() SYS_fsetxattr() SYS_getxattr() SYS_lgetxattr()
            SYS_fgetxattr() SYS_listxattr() SYS_llistxattr() SYS_flistxattr() SYS_removexattr() SYS_lremovexattr()
            SYS_fremovexattr() SYS_tkill() SYS_io_setup() SYS_io_destroy() SYS_io_getevents() SYS_io_submit()
            SYS_io_cancel() SYS_lookup_dcookie() SYS_remap_file_pages() SYS_semtimedop() SYS_fadvise64()
            SYS_timer_create() SYS_timer_settime() SYS_timer_gettime() SYS_timer_getoverrun() SYS_timer_delete()
            SYS_mbind() SYS_set_mempolicy() SYS_get_mempolicy() SYS_mq_open() SYS_mq_unlink() SYS_mq_timedsend()
            SYS_mq_timedreceive() SYS_mq_notify() SYS_mq_getsetattr() SYS_ioprio_set() SYS_ioprio_get()
            SYS_migrate_pages() SYS_mkdirat() SYS_mknodat() SYS_fchownat() SYS_linkat() SYS_symlinkat() SYS_fchmodat()
            SYS_get_robust_list() SYS_splice() SYS_tee() SYS_vmsplice() SYS_move_pages() SYS_utimensat()
            SYS_fallocate() SYS_preadv() SYS_pwritev() SYS_rt_tgsigqueueinfo() SYS_fanotify_init() SYS_fanotify_mark()
            SYS_clock_adjtime() SYS_syncfs() SYS_sched_setattr() SYS_sched_getattr() SYS_renameat2() SYS_memfd_create()
            SYS_copy_file_range() SYS_preadv2() SYS_pwritev2() SYS_pkey_mprotect() SYS_pkey_alloc() SYS_pkey_free()
            SYS_pidfd_send_signal() SYS_fsconfig() SYS_fspick() SYS_pidfd_open() SYS_openat2() SYS_process_madvise()
            SYS_mount_setattr() SYS_quotactl_fd() SYS_memfd_secret() SYS_process_mrelease() SYS_futex_waitv()
            SYS_set_mempolicy_home_node() SYS_mseal();
    };
    #[cfg(target_arch = "x86_64")]
    let rows = rows.into_iter().chain(refused_old()).collect();
    rows
}

/// Those that older architectures have beside them.
#[cfg(target_arch = "x86_64")]
fn refused_old() -> Vec<Row> {
    rows! {
        Refuses SYS_pause() SYS_alarm() SYS_fork() SYS_vfork() SYS_getdents() SYS_rename() SYS_mkdir() SYS_rmdir()
            SYS_creat() SYS_link() SYS_symlink() SYS_chmod() SYS_chown() SYS_lchown() SYS_getrlimit() SYS_utime()
            SYS_mknod() SYS_uselib() SYS_ustat() SYS_sysfs() SYS_modify_ldt() SYS__sysctl() SYS_setrlimit() SYS_iopl()
            SYS_ioperm() SYS_getpmsg() SYS_putpmsg() SYS_afs_syscall() SYS_tuxcall() SYS_security()
            SYS_set_thread_area() SYS_get_thread_area() SYS_epoll_ctl_old() SYS_epoll_wait_old() SYS_utimes()
            SYS_vserver() SYS_inotify_init() SYS_futimesat() SYS_renameat() SYS_sync_file_range() SYS_signalfd()
            SYS_eventfd() SYS_kexec_file_load() SYS_fchmodat2();
    }
}

/// Calls with arguments: of each kind what is refused, and its opposite. `arguments` has all the values.
fn by_argument() -> Vec<Row> {
    // Of these flags the kernel refuses this one without others, so that there is never a child.
    const SIGHAND: i32 = c::CLONE_SIGHAND;
    rows! {
        Refuses SYS_socket(c::AF_PACKET, c::SOCK_RAW, 0) SYS_socket(c::AF_ALG, c::SOCK_SEQPACKET, 0)
            SYS_socket(c::AF_VSOCK, c::SOCK_STREAM, 0) SYS_socket(c::AF_INET, c::SOCK_STREAM, 0)
            SYS_socket(c::AF_INET, c::SOCK_RAW, c::IPPROTO_ICMP) SYS_socket(c::AF_UNIX, c::SOCK_STREAM, 0)
            SYS_socket(c::AF_UNIX, c::SOCK_DGRAM, 0) SYS_socket(c::AF_NETLINK, c::SOCK_RAW, c::NETLINK_NETFILTER)
            SYS_socket(c::AF_NETLINK, c::SOCK_RAW, c::NETLINK_XFRM) SYS_socketpair(c::AF_UNIX, c::SOCK_DGRAM, 0);
        Serves SYS_socket(c::AF_INET, c::SOCK_DGRAM, c::IPPROTO_UDP) SYS_socket(c::AF_INET6, c::SOCK_DGRAM, 0)
            SYS_socket(c::AF_NETLINK, c::SOCK_RAW, c::NETLINK_ROUTE) SYS_socketpair(c::AF_UNIX, c::SOCK_STREAM, 0);
        Refuses SYS_setsockopt(NONE, c::SOL_IP, 64) SYS_setsockopt(NONE, c::SOL_IPV6, 64)
            SYS_setsockopt(NONE, c::SOL_TCP, 31) SYS_setsockopt(NONE, c::SOL_PACKET, 5)
            SYS_setsockopt(NONE, c::SOL_UDP, 100) SYS_setsockopt(NONE, c::SOL_IP, c::IP_XFRM_POLICY)
            SYS_setsockopt(NONE, c::SOL_SOCKET, c::SO_ATTACH_BPF);
        Serves SYS_setsockopt(NONE, c::SOL_SOCKET, c::SO_MARK) SYS_setsockopt(NONE, c::SOL_UDP, c::UDP_GRO);
        Refuses SYS_ioctl(NONE, c::TIOCSTI) SYS_ioctl(NONE, c::TIOCLINUX) SYS_ioctl(NONE, c::TUNSETIFF)
            SYS_ioctl(NONE, c::SIOCSIFFLAGS) SYS_ioctl(NONE, c::FIOASYNC);
        Serves SYS_ioctl(NONE, c::TUNGETIFF) SYS_ioctl(NONE, c::FIONBIO);
        Refuses SYS_clone(SIGHAND | c::CLONE_NEWUSER) SYS_clone(SIGHAND | c::CLONE_NEWNS)
            SYS_clone(SIGHAND | c::CLONE_NEWCGROUP) SYS_clone(SIGHAND | c::CLONE_NEWUTS)
            SYS_clone(SIGHAND | c::CLONE_NEWIPC) SYS_clone(SIGHAND | c::CLONE_NEWPID)
            SYS_clone(SIGHAND | c::CLONE_NEWNET);
        Serves SYS_clone(SIGHAND);
        Lacks SYS_clone3();
        Refuses SYS_kill(0, c::SIGTERM) SYS_kill(0, c::SIGKILL) SYS_kill(NOBODY, c::SIGUSR2)
            SYS_kill(-NOBODY, c::SIGTERM) SYS_kill(NOBODY, c::SIGSTOP)
            SYS_tgkill(NOBODY, NOBODY, c::SIGKILL) SYS_fcntl(NONE, c::F_SETOWN) SYS_prlimit64(NOBODY, 0, 0, 0)
            SYS_sched_setaffinity(NOBODY, 0, 0);
        Serves SYS_kill(NOBODY, c::SIGTERM) SYS_tgkill(NOBODY, NOBODY, c::SIGABRT) SYS_fcntl(NONE, c::F_SETFL)
            SYS_prlimit64(0, NONE, 0, 0) SYS_sched_setaffinity(0, 0, 0);
        Refuses SYS_prctl(c::PR_SET_DUMPABLE, 1) SYS_prctl(c::PR_SET_MM) SYS_prctl(c::PR_SET_PTRACER)
            SYS_prctl(c::PR_SET_SECUREBITS, 0) SYS_prctl(c::PR_CAPBSET_DROP);
        Serves SYS_prctl(c::PR_SET_DUMPABLE, 0) SYS_prctl(c::PR_SET_NAME);
        Refuses SYS_mmap(0, 0, c::PROT_WRITE | c::PROT_EXEC) SYS_mprotect(1, 0, c::PROT_READ | c::PROT_EXEC)
            SYS_mprotect(1, 0, c::PROT_WRITE | c::PROT_EXEC);
        Serves SYS_mmap(0, 0, c::PROT_READ | c::PROT_EXEC) SYS_mmap(0, 0, c::PROT_READ | c::PROT_WRITE)
            SYS_mprotect(1, 0, c::PROT_READ | c::PROT_WRITE);
        Refuses SYS_openat(NONE, NONE, c::O_WRONLY | c::O_CREAT) SYS_openat(NONE, NONE, c::O_RDONLY | c::O_TRUNC)
            SYS_openat(NONE, NONE, c::O_RDWR) SYS_unlinkat(NONE, NONE, c::AT_REMOVEDIR);
        Serves SYS_openat(NONE, NONE, c::O_RDONLY | c::O_CLOEXEC) SYS_unlinkat(NONE, NONE, 0);
    }
}

/// What serving and reloading do with any arguments, as far as the kernel refuses `NONE` for each.
fn served() -> Vec<Row> {
    rows! {
        Serves SYS_read() SYS_write() SYS_readv() SYS_writev() SYS_sendto() SYS_recvfrom() SYS_sendmsg() SYS_recvmsg()
            SYS_sendmmsg() SYS_recvmmsg() SYS_epoll_create1() SYS_epoll_ctl() SYS_epoll_pwait() SYS_eventfd2()
            SYS_pipe2() SYS_bind() SYS_listen() SYS_accept4() SYS_shutdown() SYS_getsockname() SYS_getsockopt()
            SYS_inotify_init1() SYS_inotify_add_watch() SYS_close() SYS_dup() SYS_dup3() SYS_fstat() SYS_statx()
            SYS_readlinkat() SYS_madvise() SYS_mlock2() SYS_futex() SYS_timerfd_create() SYS_timerfd_settime()
            SYS_getrandom() SYS_rt_sigaction() SYS_rt_sigprocmask() SYS_sigaltstack() SYS_wait4() SYS_capget()
            SYS_capset() SYS_seccomp() SYS_landlock_create_ruleset() SYS_landlock_restrict_self() SYS_execve();
    }
}

fn all() -> Vec<Row> {
    [deadly(), refused(), by_argument(), served()].into_iter().flatten().collect()
}

/// Makes each call in a process of its own under this confinement, and returns what did not keep its promise.
fn broken(name: &str, rows: &[Row], confinement: &Confinement) -> Vec<String> {
    if is_child(name) {
        let row: usize = std::env::var(ROW).unwrap().parse().unwrap();
        let Row { number, arguments, .. } = rows[row];
        // What reaches a group of processes reaches no other than this one.
        rustix::process::setsid().unwrap();
        // `pause`, if it were made, would never end by itself.
        #[cfg(target_arch = "x86_64")]
        call(c::SYS_alarm, [10, 0, 0, 0, 0, 0]);
        give_up(confinement, None, false);
        println!("\n{ANSWER}{}", call(number, arguments));
        std::process::exit(DONE);
    }
    let tried = rows.iter().enumerate().map(|(row, expected)| {
        let output = again(name).env(ROW, row.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let answer = said.lines().find(|line| line.starts_with(ANSWER)).unwrap_or("no answer").to_owned();
        let broken = !expected.promise.is_kept(&output);
        broken.then(|| format!("{:?} {}: {answer}, {}", expected.promise, expected.words, output.status))
    });
    tried.flatten().collect()
}

#[track_caller]
fn assert_kept(name: &str, rows: &[Row], confinement: &Confinement) {
    let broken = broken(name, rows, confinement);
    assert!(broken.is_empty(), "{} of {} rows:\n{}", broken.len(), rows.len(), broken.join("\n"));
}

#[test]
fn what_only_attackers_call_ends_the_process() {
    assert_kept("calls::what_only_attackers_call_ends_the_process", &deadly(), &SECCOMP_ALONE);
}

#[test]
fn calls_that_serving_does_not_take_are_refused() {
    assert_kept("calls::calls_that_serving_does_not_take_are_refused", &refused(), &SECCOMP_ALONE);
}

#[test]
fn of_a_call_the_arguments_decide() {
    assert_kept("calls::of_a_call_the_arguments_decide", &by_argument(), &SECCOMP_ALONE);
}

#[test]
fn calls_that_serving_takes_are_made() {
    assert_kept("calls::calls_that_serving_takes_are_made", &served(), &SECCOMP_ALONE);
}

#[test]
fn without_reload_no_program_is_started_and_no_other_process_gets_a_signal() {
    let name = "calls::without_reload_no_program_is_started_and_no_other_process_gets_a_signal";
    let rows = rows! {
        Ends SYS_execve() SYS_execveat();
        Refuses SYS_kill(NOBODY, c::SIGTERM) SYS_kill(NOBODY, c::SIGKILL) SYS_kill(NOBODY, c::SIGUSR2);
        Refuses SYS_tgkill(NOBODY, NOBODY, c::SIGABRT) SYS_tgkill(std::process::id(), NOBODY, c::SIGKILL);
        Serves SYS_tgkill(std::process::id(), NOBODY, c::SIGABRT);
    };
    assert_kept(name, &rows, &Confinement { reload: false, ..SECCOMP_ALONE });
}

/// Otherwise the rows would prove nothing.
#[test]
fn without_a_filter_the_kernel_answers_in_another_way() {
    let has = rustix::thread::capabilities(None).unwrap().effective;
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_RAWIO | CapabilitySet::SYS_PACCT | CapabilitySet::SYSLOG;
    if !has.contains(needed | CapabilitySet::SYS_TIME | CapabilitySet::NET_RAW) {
        eprintln!("skipped: without root's rights the kernel itself refuses many calls");
        return;
    }
    let output = in_a_process("calls::without_a_filter_the_kernel_answers_in_another_way", || {
        // These act with any arguments.
        let mut acting = BTreeSet::from([c::SYS_sync, c::SYS_vhangup, c::SYS_msgget, c::SYS_kill]);
        #[cfg(target_arch = "x86_64")]
        acting.extend([c::SYS_pause, c::SYS_fork, c::SYS_vfork]);
        let rows = [refused(), by_argument()].into_iter().flatten();
        let rows = rows.filter(|row| row.promise == Refuses && !acting.contains(&row.number));
        let same: Vec<&str> =
            rows.filter(|row| call(row.number, row.arguments) == c::EPERM).map(|row| row.words).collect();
        assert!(same.is_empty(), "{same:?}");
    });
    assert_ended_well(&output);
}

#[test]
fn a_number_that_is_in_no_list_is_refused() {
    let output = in_a_process("calls::a_number_that_is_in_no_list_is_refused", || {
        give_up(&SECCOMP_ALONE, None, false);
        let mut known: BTreeSet<i64> = all().iter().map(|row| row.number).collect();
        known.extend(filter::PERMITTED.iter().chain(filter::PERMITTED_OLD));
        known.extend([c::SYS_execveat]);
        // The last two are `uretprobe` and `uprobe`: the kernel asks no filter about them, and ends whoever makes them
        // where it has not put them itself.
        #[cfg(target_arch = "x86_64")]
        known.extend([c::SYS_open, 335, 336]);
        let numbers = (0..2_000).filter(|number| !known.contains(number));
        let permitted: Vec<i64> = numbers.filter(|&number| call(number, [NONE; 6]) != c::EPERM).collect();
        assert!(permitted.is_empty(), "{permitted:?}");
        // Nothing is refused and permitted at once, so that a call that comes to be permitted leaves its row.
        let refused: BTreeSet<i64> = [deadly(), refused()].into_iter().flatten().map(|row| row.number).collect();
        let both = filter::PERMITTED.iter().chain(filter::PERMITTED_OLD).find(|call| refused.contains(call));
        assert_eq!(both, None);
    });
    assert_ended_well(&output);
}

/// The numbers of x32, a way of calling with pointers of 32 bits, have another bit set.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_x32_are_refused() {
    const X32: i64 = 0x4000_0000;
    let output = in_a_process("calls::calls_of_x32_are_refused", || {
        give_up(&SECCOMP_ALONE, None, false);
        for number in (0..600).filter(|&number| ![c::SYS_exit, c::SYS_exit_group].contains(&number)) {
            assert_eq!(call(X32 | number, [NONE; 6]), c::EPERM, "{number}");
        }
    });
    assert_ended_well(&output);
}

/// Their numbers mean other calls, of which the filter knows nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_of_32_bits_ends_the_process() {
    let name = "calls::a_call_of_32_bits_ends_the_process";
    if is_child(name) {
        if std::env::var_os(ROW).is_some() {
            give_up(&SECCOMP_ALONE, None, false);
        }
        getpid_of_32_bits();
        std::process::exit(DONE);
    }
    if again(name).output().unwrap().status.code() != Some(DONE) {
        eprintln!("skipped: this kernel has no calls of 32 bits");
        return;
    }
    let output = again(name).env(ROW, "").output().unwrap();
    assert_eq!(output.status.signal(), Some(SIGSYS), "{output:?}");
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "no library makes a call of another kind than its own")]
fn getpid_of_32_bits() {
    const GETPID: u32 = 20;
    // SAFETY: by this interrupt the kernel makes the call of this number, which takes no arguments and touches no
    // memory; it may change the registers that are named, the number's own among them.
    unsafe {
        std::arch::asm!("int 0x80", inout("eax") GETPID => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
}

#[test]
fn a_program_started_from_there_is_confined_as_well() {
    let name = "calls::a_program_started_from_there_is_confined_as_well";
    if is_child(name) {
        if std::env::var_os(ROW).is_some() {
            println!("\nstarted");
            call(c::SYS_mount, [NONE; 6]);
        } else {
            give_up(&Confinement::FULL, None, false);
            let started = again(name).env(ROW, "").output().unwrap();
            assert!(String::from_utf8_lossy(&started.stdout).contains("\nstarted"), "{started:?}");
            assert_eq!(started.status.signal(), Some(SIGSYS), "{started:?}");
        }
        std::process::exit(DONE);
    }
    assert_ended_well(&again(name).output().unwrap());
}
