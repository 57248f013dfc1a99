//! The names of routing tables, as `ip` knows them.

use std::fs;
use std::iter::once;
use std::path::Path;

use super::parse::fwmark;

/// Where iproute2 looks, in this order.
const FOLDERS: [&str; 3] = ["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/iproute2"];

/// The number of the table that has this name here.
pub(super) fn number(name: &str) -> Option<u32> {
    FOLDERS.iter().find_map(|folder| number_in(Path::new(folder), name))
}

/// As [`number`], by the files of one folder.
fn number_in(folder: &Path, name: &str) -> Option<u32> {
    let entries = fs::read_dir(folder.join("rt_tables.d")).into_iter().flatten().flatten();
    let others = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "conf"));
    once(folder.join("rt_tables")).chain(others).find_map(|file| number_of(&fs::read_to_string(file).ok()?, name))
}

/// Each line has a number and a name, and may have a comment.
fn number_of(text: &str, name: &str) -> Option<u32> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    lines.filter(|(_, found)| *found == name).find_map(|(number, _)| fwmark(number).filter(|&number| number != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_table_goes_by_the_name_that_one_of_the_files_gives_it() {
        let folder = Scratch::new();
        fs::create_dir(folder.join("rt_tables.d")).unwrap();
        fs::write(folder.join("rt_tables"), "# names\n255 local\n\n 0x64\tvpn # a tunnel\n#7 hidden\n0 none\n8\n")
            .unwrap();
        fs::write(folder.join("rt_tables.d/more.conf"), "9 vpn\n11 other").unwrap();
        fs::write(folder.join("rt_tables.d/old"), "12 old").unwrap();
        let found = |name| number_in(&folder, name);
        assert_eq!(["local", "vpn", "other"].map(found), [Some(255), Some(100), Some(11)]);
        assert_eq!(["hidden", "none", "old", "#", "8", "", "VPN"].map(found), [None; 7]);
        assert_eq!(number_in(&folder.join("nowhere"), "vpn"), None);
    }
}
