//! Adit with every other implementation: who begins, what is outside, bulk both ways, roaming, and a rekey.

mod sessions;

adit_tests::with_each_partner! {
    sessions::adit_initiates_over_v4;
    sessions::adit_initiates_over_v6;
    sessions::adit_responds_over_v4;
    sessions::adit_responds_over_v6;
    sessions::adit_follows_a_partner_that_moves,
        boringtun: "stays connected from the address that is gone";
    sessions::partner_follows_adit_that_moves;
    sessions::adit_follows_a_moved_port;
    sessions::partner_follows_a_moved_port;
    sessions::rekey_begun_by_adit_loses_nothing;
    sessions::rekey_begun_by_the_partner_loses_nothing;
}
