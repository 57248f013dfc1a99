//! System calls that the kernel refuses, for tests of what is done then.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// From now on the kernel refuses this thread `call` where the argument of this index has this value.
pub(crate) fn refuse(call: i64, argument: u8, value: i32, errno: i32) {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64);
    let rule = SeccompRule::new(vec![condition.expect("condition")]).expect("rule");
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, vec![rule])]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().expect("architecture"),
    );
    let program: BpfProgram = filter.expect("filter").try_into().expect("program");
    seccompiler::apply_filter(&program).expect("a thread may give up");
}
