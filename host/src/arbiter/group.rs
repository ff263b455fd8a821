//! `--reuse-port`: several sockets on one TCP address, so that the kernel spreads new connections over several queues.
//!
//! Owns which sockets belong together and how many there are. Does not own binding ([`crate::listener`]) nor when a
//! socket begins to listen or is closed ([`super::reload`]).
//!
//! What a newcomer would get wrong: a worker does not own one of them. Closing a socket resets what waits in its queue,
//! and a queue whose only worker died, boots or drains would be left alone; so the master holds all of them, every
//! worker accepts from every one, and there are never fewer than there were as long as the address stays. A worker that
//! goes takes no queue with it, whether by TTOU, by a reload, or by KILL.

use std::rc::Rc;

use crate::config::{BindKind, Config};
use crate::listener::{Listener, ListenerError};

/// The first socket of each address.
pub(super) fn heads(listeners: &[Rc<Listener>]) -> Vec<Rc<Listener>> {
    let mut heads: Vec<Rc<Listener>> = Vec::new();
    for listener in listeners {
        if !heads.iter().any(|head| head.actual() == listener.actual()) {
            heads.push(Rc::clone(listener));
        }
    }
    heads
}

/// Adds to each TCP address what belongs beside its first socket: all that serve already, and new ones until there is
/// one for each configured worker. What was added stays in the list also after an error.
pub(super) fn complete(
    listeners: &mut Vec<Rc<Listener>>,
    serving: &[Rc<Listener>],
    config: &Config,
) -> Result<(), ListenerError> {
    if !config.reuse_port {
        return Ok(());
    }
    for head in listeners.clone() {
        if !matches!(head.actual(), BindKind::Tcp(_)) {
            continue;
        }
        let mut members = 1;
        for member in serving.iter().filter(|member| member.actual() == head.actual()) {
            if !Rc::ptr_eq(member, &head) {
                listeners.push(Rc::clone(member));
                members += 1;
            }
        }
        for _ in members..config.workers {
            listeners.push(Rc::new(head.bind_beside()?));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::BindAddress;

    #[test]
    fn sockets_of_one_address_have_one_head() {
        let address = BindAddress::resolve("127.0.0.1:0", Path::new("/")).unwrap();
        let shared = || Rc::new(Listener::bind_shared(&address, 0).unwrap());
        let (one, other) = (shared(), shared());
        let beside = Rc::new(one.bind_beside().unwrap());
        assert_eq!(beside.actual(), one.actual());
        assert_ne!(beside.inode(), one.inode());
        let found = heads(&[Rc::clone(&one), beside, Rc::clone(&other)]);
        assert_eq!(found.len(), 2, "each port 0 is an address of its own");
        assert!(Rc::ptr_eq(&found[0], &one) && Rc::ptr_eq(&found[1], &other));
        for listener in [&one, &other] {
            listener.listen(16).unwrap();
        }
    }

    #[test]
    fn nobody_is_bound_beside_a_socket_that_is_alone() {
        let address = BindAddress::resolve("127.0.0.1:0", Path::new("/")).unwrap();
        let alone = Listener::bind(&address, 0).unwrap();
        alone.listen(16).unwrap();
        let refused =
            alone.bind_beside().and_then(|second| second.listen(16)).expect_err("the port is taken");
        assert!(refused.to_string().contains("in use"), "{refused}");
    }
}
