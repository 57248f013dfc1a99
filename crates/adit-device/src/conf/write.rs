//! Writing a file, in the order of `wg showconf` and `wg-quick save`.

use std::fmt::{Display, Write as _};

use zeroize::Zeroizing;

use super::{Config, InterfaceConfig, PeerConfig, Table};

pub(super) fn write(config: &Config) -> Zeroizing<String> {
    // Room for everything: growing would leave copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(capacity(config)));
    write_interface(&mut text, &config.interface);
    for peer in &config.peers {
        write_peer(&mut text, peer);
    }
    text
}

/// How long the text is at most.
pub(super) fn capacity(config: &Config) -> usize {
    let interface = &config.interface;
    let hooks = [&interface.pre_up, &interface.post_up, &interface.pre_down, &interface.post_down, &interface.dns];
    let hooks: usize = hooks.into_iter().flatten().map(|line| line.len() + 16).sum();
    let allowed_ips: usize = config.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    512 + hooks + 64 * (interface.addresses.len() + allowed_ips) + 640 * config.peers.len()
}

fn write_interface(text: &mut String, interface: &InterfaceConfig) {
    text.push_str("[Interface]\n");
    for address in &interface.addresses {
        push(text, "Address", Some(address));
    }
    for server in &interface.dns {
        push(text, "DNS", Some(server));
    }
    push(text, "MTU", interface.mtu);
    match interface.table {
        Table::Auto => {}
        Table::Off => push(text, "Table", Some("off")),
        Table::Number(number) => push(text, "Table", Some(number)),
    }
    push(text, "SaveConfig", interface.save_config.then_some(true));
    let hooks = [
        ("PreUp", &interface.pre_up),
        ("PostUp", &interface.post_up),
        ("PreDown", &interface.pre_down),
        ("PostDown", &interface.post_down),
    ];
    for (name, commands) in hooks {
        for command in commands {
            push(text, name, Some(command));
        }
    }
    push(text, "ListenPort", interface.listen_port);
    push(text, "FwMark", interface.fwmark.map(|mark| format!("0x{mark:x}")));
    push(text, "PrivateKey", interface.private_key.as_ref().map(|key| key.to_base64()).as_deref());
}

fn write_peer(text: &mut String, peer: &PeerConfig) {
    text.push_str("\n[Peer]\n");
    push(text, "PublicKey", Some(peer.public_key));
    push(text, "PresharedKey", peer.preshared_key.as_ref().map(|key| key.to_base64()).as_deref());
    for (index, net) in peer.allowed_ips.iter().enumerate() {
        let before = if index == 0 { "AllowedIPs = " } else { ", " };
        write!(text, "{before}{net}").expect("a String takes all text");
    }
    if !peer.allowed_ips.is_empty() {
        text.push('\n');
    }
    push(text, "Endpoint", peer.endpoint.as_ref());
    push(text, "PersistentKeepalive", peer.persistent_keepalive);
}

fn push(text: &mut String, name: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        writeln!(text, "{name} = {value}").expect("a String takes all text");
    }
}
