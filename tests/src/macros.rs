//! Tests made of a function and the implementations to try it with.

/// Makes a test of each function in the list with Adit alone, for what needs no partner.
///
/// A function stands in a module of the crate's root, is named `module::function`, and takes an `Implementation`.
#[macro_export]
#[expect(clippy::crate_in_macro_def, reason = "the functions are the caller's")]
macro_rules! alone {
    ($($module:ident::$function:ident;)*) => {$(
        mod $function {
            #[test]
            fn adit() {
                crate::$module::$function($crate::Implementation::Adit);
            }
        }
    )*};
}

/// Makes tests of each function in the list: Adit with Adit, and Adit with each other implementation.
///
/// A function stands in a module of the crate's root, is named `module::function`, and takes two `Implementation`s:
/// the one under test and its partner. A pair whose partner cannot do its own part is written with the reason,
/// as in `module::function, boringtun: "why";`, and its test is ignored with that reason.
#[macro_export]
#[expect(clippy::crate_in_macro_def, reason = "the functions are the caller's")]
macro_rules! with_each_partner {
    ($($module:ident::$function:ident $(, $partner:ident: $reason:literal)*;)*) => {$(
        mod $function {
            #[test]
            fn adit_with_adit() {
                crate::$module::$function($crate::Implementation::Adit, $crate::Implementation::Adit);
            }
            $crate::with_each_partner!(@wireguard_go $module $function $($partner $reason)*);
            $crate::with_each_partner!(@boringtun $module $function $($partner $reason)*);
            $crate::with_each_partner!(@gotatun $module $function $($partner $reason)*);
        }
    )*};
    (@wireguard_go $module:ident $function:ident wireguard_go $reason:literal $($rest:tt)*) => {
        $crate::with_each_partner!(@test [#[ignore = $reason]] adit_with_wireguard_go $module $function WireguardGo);
    };
    (@wireguard_go $module:ident $function:ident) => {
        $crate::with_each_partner!(@test [] adit_with_wireguard_go $module $function WireguardGo);
    };
    (@boringtun $module:ident $function:ident boringtun $reason:literal $($rest:tt)*) => {
        $crate::with_each_partner!(@test [#[ignore = $reason]] adit_with_boringtun $module $function Boringtun);
    };
    (@boringtun $module:ident $function:ident) => {
        $crate::with_each_partner!(@test [] adit_with_boringtun $module $function Boringtun);
    };
    (@gotatun $module:ident $function:ident gotatun $reason:literal $($rest:tt)*) => {
        $crate::with_each_partner!(@test [#[ignore = $reason]] adit_with_gotatun $module $function Gotatun);
    };
    (@gotatun $module:ident $function:ident) => {
        $crate::with_each_partner!(@test [] adit_with_gotatun $module $function Gotatun);
    };
    // The first reason in the list is about another partner.
    (@$which:ident $module:ident $function:ident $other:ident $reason:literal $($rest:tt)*) => {
        $crate::with_each_partner!(@$which $module $function $($rest)*);
    };
    (@test [$($ignore:tt)*] $name:ident $module:ident $function:ident $partner:ident) => {
        #[test]
        $($ignore)*
        fn $name() {
            crate::$module::$function($crate::Implementation::Adit, $crate::Implementation::$partner);
        }
    };
}
