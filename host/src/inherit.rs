//! Sockets that were passed to the program: by the service manager, by whoever started it, by another master.
//!
//! Owns which there are, what each is for, and who else has it. Does not own what is done with a socket
//! ([`crate::listener`]), nor the hand-over itself (`arbiter/reexec.rs`).
//!
//! | passed by               | said in                        | asked for as                  | who else has it    |
//! |-------------------------|--------------------------------|-------------------------------|--------------------|
//! | systemd (sd_listen_fds) | LISTEN_PID, _FDS, _FDNAMES     | nothing, `fd://N`, `fd://NAME` | systemd            |
//! | any other program       | nothing but the number         | `fd://N`                      | that program       |
//! | the old master (USR2)   | RGUNICORN_HANDOVER             | the address as it was bound   | the other master   |
//!
//! What a newcomer would get wrong: sockets of the service manager replace `bind`, as in Gunicorn, because a service whose
//! socket unit was changed must not go on listening on `127.0.0.1:8000` beside it. Only where `bind` names some of them
//! (`fd://…`) is it obeyed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::config::{BindAddress, BindKind};
use crate::error::{EXIT_SETTINGS, StartError};
use crate::listener::{Holder, Listener, ListenerError};
use crate::sys::fd::Channel;
use crate::sys::inherit::{FIRST, take_sockets};

/// Where an old master says what it hands over.
pub const HANDOVER: &str = "RGUNICORN_HANDOVER";

/// What an old master hands over, beside the sockets of the service manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// For whom it is meant: the variable lives on in programs that workers start.
    pub pid: i32,
    /// The old master.
    pub master: i32,
    /// A channel to it.
    pub channel: RawFd,
    /// The sockets.
    pub sockets: Vec<HandedSocket>,
}

/// A socket that another master hands over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedSocket {
    /// Its number over exec.
    pub fd: RawFd,
    /// What the operator asked for: the port may have been 0.
    pub address: BindAddress,
    /// The identity of the file that whoever holds the socket last is to remove.
    pub file: Option<(u64, u64)>,
    /// It was passed to the old master, too.
    pub foreign: bool,
}

/// The old master, as its successor knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Its process.
    pub pid: i32,
    /// A channel to it; a number among those that were inherited.
    pub channel: RawFd,
}

/// All that was passed to the program.
#[derive(Debug, Default)]
pub struct Inheritance {
    sockets: RefCell<BTreeMap<RawFd, Rc<OwnedFd>>>,
    /// Those of the service manager, in its order, each with its name.
    activated: Vec<(RawFd, String)>,
    handed: Vec<HandedSocket>,
    predecessor: Option<Predecessor>,
}

impl Inheritance {
    /// Master: takes what was passed. The first thing that it does.
    ///
    /// # Errors
    /// What a service manager or another master says was passed cannot be understood, or is not there.
    pub fn capture() -> Result<Self, StartError> {
        let sockets = take_sockets().map_err(|error| {
            StartError::new(EXIT_SETTINGS, format!("cannot take inherited sockets: {error}"))
        })?;
        let variable = |name: &str| std::env::var(name).ok();
        Self::understand(sockets, std::process::id(), variable)
            .map_err(|sentence| StartError::new(EXIT_SETTINGS, sentence))
    }

    fn understand(
        sockets: BTreeMap<RawFd, OwnedFd>,
        pid: u32,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let mut activated = Vec::new();
        // Meant for somebody else otherwise: a parent that did not pass them on (sd_listen_fds(3)).
        if variable("LISTEN_PID").is_some_and(|text| text.trim() == pid.to_string()) {
            let count = variable("LISTEN_FDS").unwrap_or_default();
            let count: RawFd = count.trim().parse().map_err(|_| {
                format!("cannot use the sockets of the service manager: LISTEN_FDS is '{count}'")
            })?;
            let names = variable("LISTEN_FDNAMES").unwrap_or_default();
            let mut names = names.split(':').map(str::to_owned);
            for fd in (FIRST..).take(usize::try_from(count).unwrap_or(0)) {
                if !sockets.contains_key(&fd) {
                    return Err(format!(
                        "cannot use the sockets of the service manager: LISTEN_FDS says that there are {count}, and \
                         descriptor {fd} is no open socket"
                    ));
                }
                // What a service manager that gives no names calls them (sd_listen_fds(3)).
                activated
                    .push((fd, names.next().filter(|name| !name.is_empty()).unwrap_or("unknown".to_owned())));
            }
        }
        let sockets = RefCell::new(sockets.into_iter().map(|(number, fd)| (number, Rc::new(fd))).collect());
        let mut inheritance = Self { sockets, activated, handed: Vec::new(), predecessor: None };
        if let Some(text) = variable(HANDOVER) {
            let handover: Handover = serde_json::from_str(&text).map_err(|error| {
                format!(
                    "cannot understand what the old master hands over ({error}); if this program was not started by \
                     USR2, take {HANDOVER} out of its environment"
                )
            })?;
            if u32::try_from(handover.pid) == Ok(pid) {
                let open = |fd: &RawFd| inheritance.socket(*fd).is_some();
                let numbers = handover.sockets.iter().map(|socket| &socket.fd).chain([&handover.channel]);
                if let Some(missing) = numbers.into_iter().find(|fd| !open(fd)) {
                    return Err(format!(
                        "cannot take over from the old master: descriptor {missing} is not open"
                    ));
                }
                inheritance.predecessor =
                    Some(Predecessor { pid: handover.master, channel: handover.channel });
                inheritance.handed = handover.sockets;
            }
        }
        Ok(inheritance)
    }

    /// The master that this one was started by, with USR2.
    pub fn predecessor(&self) -> Option<Predecessor> {
        self.predecessor
    }

    /// An end of the channel to that master.
    ///
    /// # Errors
    /// There is none, or no descriptor is left.
    pub fn channel(&self) -> io::Result<Channel> {
        let fd = self.predecessor.and_then(|predecessor| self.socket(predecessor.channel));
        Ok(Channel::from_fd(fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.try_clone()?))
    }

    fn socket(&self, fd: RawFd) -> Option<Rc<OwnedFd>> {
        self.sockets.borrow().get(&fd).cloned()
    }

    /// Master: the first generation has the sockets of the old master that it wants. Those are listeners like any other
    /// from now on, to be closed for good when a reload removes them, and the rest is the old master's alone.
    pub fn settle(&self) {
        let mut sockets = self.sockets.borrow_mut();
        for socket in self.handed.iter().filter(|socket| !socket.foreign) {
            sockets.remove(&socket.fd);
        }
    }

    /// Begins to give sockets to the addresses of one configuration.
    pub fn distribute(&self) -> Distribution<'_> {
        Distribution { inheritance: self, given: BTreeSet::new() }
    }

    /// The sockets of the service manager, in its order, each with its name and number: to be passed on under the same
    /// numbers.
    pub fn activated(&self) -> impl Iterator<Item = (&str, Rc<OwnedFd>)> {
        self.activated.iter().filter_map(|(fd, name)| Some((name.as_str(), self.socket(*fd)?)))
    }

    /// Sockets that were passed by number, whether they are used or not: a successor may be configured to.
    pub fn passed(&self) -> Vec<(HandedSocket, Rc<OwnedFd>)> {
        let activated = |fd: &RawFd| self.activated.iter().any(|(other, _)| other == fd);
        let handed: Vec<&HandedSocket> = self.handed.iter().filter(|socket| socket.foreign).collect();
        let again = handed.iter().filter_map(|socket| Some(((*socket).clone(), self.socket(socket.fd)?)));
        let sockets = self.sockets.borrow();
        let by_number = sockets.iter().filter(|(fd, _)| !activated(fd) && self.predecessor.is_none()).map(
            |(fd, socket)| {
                let handed = HandedSocket { fd: *fd, address: by_number(*fd), file: None, foreign: true };
                (handed, Rc::clone(socket))
            },
        );
        again.chain(by_number).collect()
    }

    /// A descriptor of our own for one that was inherited.
    fn duplicate(&self, fd: RawFd, address: &BindAddress) -> Result<OwnedFd, ListenerError> {
        let Some(socket) = self.socket(fd) else {
            let why = format!("descriptor {fd} was not passed to the program, or is no socket");
            return Err(ListenerError::new("use", address, why));
        };
        socket.try_clone().map_err(|error| ListenerError::new("use", address, crate::error::io_text(&error)))
    }
}

fn by_number(fd: RawFd) -> BindAddress {
    BindAddress { text: format!("fd://{fd}"), kind: BindKind::Fd(fd) }
}

/// Which sockets the addresses of one configuration get; each is given once.
#[derive(Debug)]
pub struct Distribution<'i> {
    inheritance: &'i Inheritance,
    /// Indices into `handed`.
    given: BTreeSet<usize>,
}

impl Distribution<'_> {
    /// What is to be listened on, given what the configuration says.
    ///
    /// # Errors
    /// A name that no socket has.
    pub fn addresses(&self, configured: &[BindAddress]) -> Result<Vec<BindAddress>, ListenerError> {
        let activated = &self.inheritance.activated;
        let is_passed = |address: &BindAddress| matches!(address.kind, BindKind::Fd(_) | BindKind::FdName(_));
        if !activated.is_empty() && !configured.iter().any(is_passed) {
            return Ok(activated.iter().map(|(fd, _)| by_number(*fd)).collect());
        }
        let mut addresses: Vec<BindAddress> = Vec::with_capacity(configured.len());
        for address in configured {
            let BindKind::FdName(wanted) = &address.kind else {
                addresses.push(address.clone());
                continue;
            };
            let named: Vec<_> = activated.iter().filter(|(_, name)| name == wanted).collect();
            if named.is_empty() {
                let names: BTreeSet<&str> = activated.iter().map(|(_, name)| name.as_str()).collect();
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let why = if names.is_empty() {
                    "the service manager has passed no sockets; see FileDescriptorName= in systemd.socket(5)"
                        .to_owned()
                } else {
                    format!("the service manager has passed no socket of this name, only {names}")
                };
                return Err(ListenerError::new("use", address, why));
            }
            addresses.extend(named.into_iter().map(|(fd, _)| by_number(*fd)));
        }
        // One socket may be named twice, by its number and by its name.
        let mut seen = BTreeSet::new();
        addresses.retain(|address| !matches!(address.kind, BindKind::Fd(fd) if !seen.insert(fd)));
        Ok(addresses)
    }

    /// The socket for an address, if one was passed for it, or if the address is one that can only be passed.
    pub fn take(&mut self, address: &BindAddress) -> Option<Result<Listener, ListenerError>> {
        let handed = self.inheritance.handed.iter().enumerate();
        let found = handed
            .filter(|(index, socket)| socket.address.kind == address.kind && !self.given.contains(index))
            .filter(|(_, socket)| self.inheritance.socket(socket.fd).is_some())
            .map(|(index, socket)| (index, socket.clone()))
            .next();
        if let Some((index, socket)) = found {
            self.given.insert(index);
            let holder = if socket.foreign { Holder::Foreign } else { Holder::Sibling };
            let adopt = |fd| Listener::adopt(fd, address, holder, socket.file);
            return Some(self.inheritance.duplicate(socket.fd, address).and_then(adopt));
        }
        let BindKind::Fd(fd) = address.kind else { return None };
        let adopt = |copy| Listener::adopt(copy, address, Holder::Foreign, None);
        Some(self.inheritance.duplicate(fd, address).and_then(adopt))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;

    const PID: u32 = 77;

    /// Names with values.
    type Variables<'v> = &'v [(&'v str, &'v str)];

    fn sockets(numbers: &[RawFd]) -> BTreeMap<RawFd, OwnedFd> {
        numbers.iter().map(|fd| (*fd, TcpListener::bind("127.0.0.1:0").unwrap().into())).collect()
    }

    fn understand(numbers: &[RawFd], variables: Variables<'_>) -> Result<Inheritance, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Inheritance::understand(sockets(numbers), PID, variable)
    }

    fn addresses(texts: &[&str]) -> Vec<BindAddress> {
        texts.iter().map(|text| BindAddress::resolve(text, Path::new("/")).unwrap()).collect()
    }

    fn effective(inheritance: &Inheritance, configured: &[&str]) -> Vec<String> {
        let found = inheritance.distribute().addresses(&addresses(configured));
        found.map_or_else(
            |error| vec![error.to_string()],
            |found| found.into_iter().map(|one| one.text).collect(),
        )
    }

    #[test]
    fn sockets_of_the_service_manager_replace_what_is_configured() {
        let variables = [("LISTEN_PID", "77"), ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "web:web:admin")];
        let inheritance = understand(&[3, 4, 5, 9], &variables).unwrap();
        let all = ["fd://3", "fd://4", "fd://5"];
        assert_eq!(effective(&inheritance, &["127.0.0.1:8000", "unix:/s"]), all);
        assert_eq!(effective(&inheritance, &["fd://web"]), all[..2]);
        assert_eq!(
            effective(&inheritance, &["fd://admin", "127.0.0.1:1", "fd://5"]),
            ["fd://5", "127.0.0.1:1"]
        );
        let nobody =
            "cannot use fd://other: the service manager has passed no socket of this name, only admin, web";
        assert_eq!(effective(&inheritance, &["fd://other"]), [nobody]);
        let names: Vec<&str> = inheritance.activated().map(|(name, _)| name).collect();
        assert_eq!(names, ["web", "web", "admin"]);
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        let variables = [("LISTEN_PID", "78"), ("LISTEN_FDS", "1"), (HANDOVER, &handover(78, 5))];
        let inheritance = understand(&[3], &variables).unwrap();
        assert_eq!(effective(&inheritance, &["127.0.0.1:8000"]), ["127.0.0.1:8000"]);
        assert_eq!(inheritance.predecessor(), None);
    }

    #[test]
    fn what_is_announced_and_not_there_is_one_sentence() {
        let cases: [(&[RawFd], Variables<'_>, &str); 4] = [
            (&[3], &[("LISTEN_PID", "77"), ("LISTEN_FDS", "2")], "descriptor 4 is no open socket"),
            (&[3], &[("LISTEN_PID", "77"), ("LISTEN_FDS", "x")], "LISTEN_FDS is 'x'"),
            (&[3], &[(HANDOVER, "{}")], "take RGUNICORN_HANDOVER out of its environment"),
            (&[3], &[(HANDOVER, &handover(77, 5))], "descriptor 5 is not open"),
        ];
        for (numbers, variables, expected) in cases {
            let error = understand(numbers, variables).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn handover(pid: i32, fd: RawFd) -> String {
        let socket = |text: &str, fd, foreign| {
            let address = addresses(&[text]).swap_remove(0);
            HandedSocket { fd, address, file: None, foreign }
        };
        let sockets = vec![
            socket("127.0.0.1:0", fd, false),
            socket("127.0.0.1:0", fd + 1, false),
            socket("fd://3", fd + 2, true),
        ];
        serde_json::to_string(&Handover { pid, master: 7, channel: 3, sockets }).unwrap()
    }

    #[test]
    fn what_is_handed_over_is_found_by_its_address_and_given_once() {
        let inheritance = understand(&[3, 5, 6, 7], &[(HANDOVER, &handover(77, 5))]).unwrap();
        assert_eq!(inheritance.predecessor(), Some(Predecessor { pid: 7, channel: 3 }));
        let mut passed = inheritance.distribute();
        let mut take = |text: &str| passed.take(&addresses(&[text])[0]);
        let (one, two) = (take("127.0.0.1:0").unwrap().unwrap(), take("127.0.0.1:0").unwrap().unwrap());
        assert_ne!(one.inode(), two.inode());
        assert_eq!((one.holder(), two.holder()), (Holder::Sibling, Holder::Sibling));
        assert!(take("127.0.0.1:0").is_none(), "a third one is to be bound");
        assert!(take("127.0.0.1:1").is_none());
        assert_eq!(take("fd://3").unwrap().unwrap().holder(), Holder::Foreign);
        let missing = take("fd://9").unwrap().map(|_| ()).unwrap_err().to_string();
        assert_eq!(missing, "cannot use fd://9: descriptor 9 was not passed to the program, or is no socket");
        inheritance.settle();
        let mut passed = inheritance.distribute();
        let mut take = |text: &str| passed.take(&addresses(&[text])[0]);
        assert!(take("127.0.0.1:0").is_none(), "a reload that wants it back binds a new one");
        assert!(take("fd://3").is_some_and(|listener| listener.is_ok()));
        // What was passed goes on to the next master, the channel does not.
        let again: Vec<String> =
            inheritance.passed().into_iter().map(|(socket, _)| socket.address.text).collect();
        assert_eq!(again, ["fd://3"]);
    }
}
