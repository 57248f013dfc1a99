//! Two engines and the network between them, under a script: packets, datagrams that are lost, doubled, altered,
//! repeated or made up, the time, and calls that configure. Afterwards the network is clean, and traffic must flow.

mod handover;
mod node;
mod world;

use std::time::Duration;

use arbitrary::{Result, Unstructured};

use world::World;

const MAX_OPS: usize = 200;

/// A script: one byte an operation, whose highest bit says which end it concerns, then what the operation asks for.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut world = World::new(input.arbitrary().unwrap_or_default());
    for _ in 0..MAX_OPS {
        if operation(&mut world, &mut input).is_err() || input.is_empty() {
            break;
        }
    }
    world.recovers();
}

fn operation(world: &mut World, input: &mut Unstructured<'_>) -> Result<()> {
    let code: u8 = input.arbitrary()?;
    let node = usize::from(code >> 7);
    match code & 0x3f {
        // Traffic, and a network that does as it should.
        0..=3 => world.send(node, 1, 0),
        4 => world.send(node, input.arbitrary()?, 0),
        5 => {
            let (count, shape): (u8, u8) = input.arbitrary()?;
            world.send(node, count & 31, shape);
        }
        6 => {
            let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
            let packet = input.bytes(len)?;
            world.send_bytes(node, packet);
        }
        7..=12 => world.deliver_all(),
        // A network that does not.
        13 | 14 => world.deliver_one(input.arbitrary()?, true),
        15 => world.deliver_one(input.arbitrary()?, false),
        16 => world.lose_one(input.arbitrary()?),
        17 => world.lose_all(),
        18 => {
            let (which, place, bits): (u8, u8, u8) = input.arbitrary()?;
            world.alter_one(which, place, bits);
        }
        19 => world.repeat(node, input.arbitrary()?, input.arbitrary()?),
        20 => {
            let (which, place, bits): (u8, u8, u8) = input.arbitrary()?;
            world.forge(node, which, place, bits);
        }
        21 => {
            let (from, len): (u8, u8) = input.arbitrary()?;
            let bytes = input.bytes(usize::from(len).min(input.len()))?;
            world.inject(node, from, bytes);
        }
        22 => world.congest(input.arbitrary()?),
        // The time.
        23 => world.pass(Duration::from_millis(input.arbitrary::<u8>()?.into())),
        24 => world.pass(Duration::from_secs(input.arbitrary::<u8>()?.into())),
        25 => world.pass(Duration::from_millis(input.arbitrary::<u16>()?.into())),
        26 => world.sleep(Duration::from_millis(u64::from(input.arbitrary::<u16>()?) * 8)),
        27 | 28 => world.pass_to_next_deadline(),
        // Configuration.
        29 => world.move_to(node, input.arbitrary()?),
        30 => world.restart(node),
        31 => world.remove_peer(node, input.arbitrary()?),
        32 | 33 => world.introduce(node, input.arbitrary()?),
        34 => {
            let (which, value): (u8, u8) = input.arbitrary()?;
            world.set_preshared_key(node, which, value);
        }
        35 => {
            let (which, prefix): (u8, u8) = input.arbitrary()?;
            world.add_allowed_ip(node, which, prefix);
        }
        36 => {
            let (which, prefix): (u8, u8) = input.arbitrary()?;
            world.remove_allowed_ip(node, which, prefix);
        }
        37 => world.clear_allowed_ips(node, input.arbitrary()?),
        38 => {
            let (which, seconds): (u8, u8) = input.arbitrary()?;
            world.set_persistent_keepalive(node, which, seconds);
        }
        39 => {
            let (which, address): (u8, u8) = input.arbitrary()?;
            world.set_endpoint(node, which, address);
        }
        40 => world.set_private_key(node, input.arbitrary()?),
        41 => world.node(node).interface.link_down(),
        42 => world.link_up(node),
        43 => world.set_mtu(node, input.arbitrary()?),
        44 => world.node(node).interface.forget_sources(),
        // Steps that a threaded caller takes at different times.
        45 | 46 => world.hold(node),
        47 | 48 => world.release(node, input.arbitrary()?),
        // Another process is given all that the node is and knows, and takes over or says no.
        49 | 50 => world.hand_over(node, input.arbitrary()?),
        // How answers leave.
        51 => world.node(node).judge_sources(input.arbitrary()?),
        _ => world.deliver_all(),
    }
    world.check();
    Ok(())
}
