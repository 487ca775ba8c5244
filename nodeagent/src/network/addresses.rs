//! Which pod has which address. Kept in one small file that is replaced as a whole, so that a killed agent finds it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::Cidr;

/// The addresses of one node.
#[derive(Debug)]
pub(super) struct Addresses {
    file: PathBuf,
    cidr: Cidr,
    by_uid: BTreeMap<String, Ipv4Addr>,
    next: u32,
}

impl Addresses {
    /// Reads the file, if there is one; addresses outside `cidr` are forgotten.
    pub(super) fn load(file: &Path, cidr: Cidr) -> io::Result<Self> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        let next = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
        let by_uid = lines
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(address, uid)| Some((uid.to_owned(), address.parse().ok()?)))
            .filter(|(_, address)| cidr.contains(*address))
            .collect();
        Ok(Self { file: file.to_owned(), cidr, by_uid, next })
    }

    /// The pod's address, a new one if it has none. Addresses are not given again soon, so that nobody who still
    /// knows the last owner meets the next one.
    pub(super) fn take(&mut self, uid: &str) -> io::Result<Ipv4Addr> {
        if let Some(address) = self.by_uid.get(uid) {
            return Ok(*address);
        }
        let size = self.cidr.n_pods();
        let taken: std::collections::HashSet<Ipv4Addr> = self.by_uid.values().copied().collect();
        let index = (0..size)
            .map(|step| (self.next + step) % size)
            .find(|index| !taken.contains(&self.cidr.pod(*index)))
            .ok_or_else(|| {
                io::Error::other(format!("all {size} addresses of {} are in use", self.cidr))
            })?;
        self.next = (index + 1) % size;
        let address = self.cidr.pod(index);
        self.by_uid.insert(uid.to_owned(), address);
        self.save()?;
        Ok(address)
    }

    /// The pod's address, if it has one.
    pub(super) fn get(&self, uid: &str) -> Option<Ipv4Addr> {
        self.by_uid.get(uid).copied()
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, uid: &str) -> io::Result<()> {
        match self.by_uid.remove(uid) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    /// The pods that have an address.
    pub(super) fn uids(&self) -> Vec<String> {
        self.by_uid.keys().cloned().collect()
    }

    fn save(&self) -> io::Result<()> {
        let mut text = format!("{}\n", self.next);
        for (uid, address) in &self.by_uid {
            text += &format!("{address} {uid}\n");
        }
        let draft = self.file.with_extension("new");
        fs::write(&draft, text)?;
        fs::rename(&draft, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(folder: &tempfile::TempDir) -> Addresses {
        Addresses::load(&folder.path().join("addresses"), "10.1.0.0/29".parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_go_round() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = load(&folder);
        assert_eq!(addresses.take("a").unwrap().to_string(), "10.1.0.2");
        assert_eq!(addresses.take("a").unwrap().to_string(), "10.1.0.2");
        addresses.release("a").unwrap();
        assert_eq!(addresses.take("b").unwrap().to_string(), "10.1.0.3");
    }

    #[test]
    fn a_full_network_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = load(&folder);
        for n in 0..5 {
            addresses.take(&n.to_string()).unwrap();
        }
        let error = addresses.take("one more").unwrap_err().to_string();
        assert_eq!(error, "all 5 addresses of 10.1.0.0/29 are in use");
        addresses.release("3").unwrap();
        assert_eq!(addresses.take("one more").unwrap().to_string(), "10.1.0.5");
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        load(&folder).take("a").unwrap();
        let mut again = load(&folder);
        assert_eq!(again.get("a").map(|a| a.to_string()).as_deref(), Some("10.1.0.2"));
        assert_eq!(again.take("b").unwrap().to_string(), "10.1.0.3");
    }
}
