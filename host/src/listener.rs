//! Listening sockets: bind, listen, let nobody new in, close.
//!
//! Owns one socket each and, for a Unix one, its file. Does not own which sockets there shall be (the arbiter
//! compares configurations), nor which were passed to the program ([`crate::inherit`]), and accepts nothing.
//!
//! What a newcomer would get wrong: binding and listening are two steps. A reload binds its new addresses first,
//! which may fail and then has changed nothing, and listens on them only once a new worker is ready. Until then a
//! client is refused, as before. A bound Unix socket that does not listen yet looks stale to another program that
//! starts in that moment; pid files are what keeps two masters apart.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind,
    connect, getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};

use crate::config::{BindAddress, BindKind};
use crate::sys::{fd, filter};

/// sun_path less its final zero (unix(7)).
const LONGEST_PATH: usize = 107;

/// A bound socket. It is non-blocking, closed on exec, and has TCP_NODELAY, which accepted connections inherit.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: BindAddress,
    actual: BindKind,
    /// Device and inode of the Unix socket's file when we made it: what we may unlink.
    file: Option<(u64, u64)>,
    holder: Cell<Holder>,
}

/// Who else has a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: it is closed for good when we close it.
    Alone,
    /// The other master of a USR2, for as long as it lives.
    Sibling,
    /// Whoever made it: systemd, or the program that passed `fd://N`.
    Foreign,
}

/// Whether other sockets may have the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shared,
}

/// Why an address cannot be listened on: one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {address}: {why}")]
pub struct ListenerError {
    operation: &'static str,
    address: String,
    why: String,
    busy: bool,
}

impl ListenerError {
    /// An address that cannot be had, with the reason and what to do about it.
    pub fn new(operation: &'static str, address: &BindAddress, why: impl Into<String>) -> Self {
        Self { operation, address: address.text.clone(), why: why.into(), busy: false }
    }

    /// The address in question, if it is another program's and may be free in a moment.
    pub fn busy(&self) -> Option<&str> {
        self.busy.then_some(self.address.as_str())
    }

    fn with_busy(self, busy: bool) -> Self {
        Self { busy, ..self }
    }
}

/// As Gunicorn logs it: `http://127.0.0.1:8000`, `unix:/run/app.sock`; the port is the one the kernel gave.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.actual {
            BindKind::Tcp(address) => write!(f, "http://{address}"),
            BindKind::Unix(path) => write!(f, "unix:{}", path.display()),
            BindKind::Abstract(name) => write!(f, "unix:@{name}"),
            BindKind::Fd(_) | BindKind::FdName(_) => f.write_str(&self.address.text),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Master: makes a socket and binds it, without listening. A Unix socket's file gets mode 0777 less `umask`; a
    /// stale file at its path is replaced.
    ///
    /// `[::]` accepts IPv4 too unless net.ipv6.bindv6only says otherwise, as with Gunicorn.
    ///
    /// # Errors
    /// The address is in use, not ours, forbidden, or its path is too long or taken by something else.
    pub fn bind(address: &BindAddress, umask: u32) -> Result<Self, ListenerError> {
        match &address.kind {
            BindKind::Tcp(tcp) => Self::bind_tcp(address, *tcp, Sharing::Alone),
            BindKind::Unix(path) => Self::bind_unix(address, path, umask),
            BindKind::Abstract(name) => Self::bind_abstract(address, name),
            BindKind::Fd(_) | BindKind::FdName(_) => {
                Err(ListenerError::new("use", address, "a socket that was passed has its address already"))
            }
        }
    }

    /// Master: as [`Listener::bind`], but other sockets of the same user can be bound beside it if they ask for it, too
    /// (SO_REUSEPORT, socket(7)); for TCP only.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn bind_shared(address: &BindAddress, umask: u32) -> Result<Self, ListenerError> {
        match &address.kind {
            BindKind::Tcp(tcp) => Self::bind_tcp(address, *tcp, Sharing::Shared),
            BindKind::Unix(_) | BindKind::Abstract(_) | BindKind::Fd(_) | BindKind::FdName(_) => {
                Self::bind(address, umask)
            }
        }
    }

    /// Master: one more socket beside one of [`Listener::bind_shared`], on the port that it really has.
    ///
    /// # Errors
    /// Somebody has changed who may bind there; or this is no TCP socket, which has no others beside it.
    pub fn bind_beside(&self) -> Result<Self, ListenerError> {
        match self.actual {
            BindKind::Tcp(tcp) => Self::bind_tcp(&self.address, tcp, Sharing::Shared),
            BindKind::Unix(_) | BindKind::Abstract(_) | BindKind::Fd(_) | BindKind::FdName(_) => {
                Err(self.fail("bind a second socket to", "only TCP has SO_REUSEPORT"))
            }
        }
    }

    /// Master: takes a socket that another program has made and bound. `file` is the identity of a Unix socket's file
    /// if it is ours to remove once nobody else has the socket.
    ///
    /// # Errors
    /// It is no stream socket, or has no address that anybody could connect to.
    pub fn adopt(
        fd: OwnedFd,
        address: &BindAddress,
        holder: Holder,
        file: Option<(u64, u64)>,
    ) -> Result<Self, ListenerError> {
        let fail = |why: &str| ListenerError::new("use", address, why);
        let kind = getsockopt(&fd, sockopt::SockType).map_err(|errno| fail(errno.desc()))?;
        if kind != SockType::Stream {
            return Err(fail("it is no stream socket; pass one (ListenStream= in a socket unit)"));
        }
        let actual = actual_address(&fd).map_err(|errno| fail(errno.desc()))?;
        let actual = actual.ok_or_else(|| fail("it has no address; bind it before it is passed"))?;
        fd::set_nonblocking(&fd).map_err(|error| fail(&crate::error::io_text(&error)))?;
        fd::set_cloexec(&fd).map_err(|error| fail(&crate::error::io_text(&error)))?;
        if let BindKind::Tcp(_) = actual {
            setsockopt(&fd, sockopt::TcpNoDelay, &true).map_err(|errno| fail(errno.desc()))?;
        }
        Ok(Self { fd, address: address.clone(), actual, file, holder: Cell::new(holder) })
    }

    /// Whether nobody else has the socket. What others have is only left: never filtered, shrunk, shut down, unlinked.
    pub fn is_ours(&self) -> bool {
        self.holder.get() == Holder::Alone
    }

    /// Who else has it.
    pub fn holder(&self) -> Holder {
        self.holder.get()
    }

    /// Master: another master has a copy from now on.
    pub fn share(&self) {
        if self.is_ours() {
            self.holder.set(Holder::Sibling);
        }
    }

    /// Master: the other master has gone.
    pub fn reclaim(&self) {
        if self.holder.get() == Holder::Sibling {
            self.holder.set(Holder::Alone);
        }
    }

    /// The identity of the file that we may unlink, for whoever the socket is handed to.
    pub fn file(&self) -> Option<(u64, u64)> {
        self.file
    }

    /// Master: begins to listen, or changes the backlog of a socket that does already (listen(2) may be repeated).
    /// This is where two sockets on one address meet: SO_REUSEADDR lets both bind while neither listens.
    ///
    /// The kernel bounds it by net.core.somaxconn.
    ///
    /// # Errors
    /// Another socket listens on the same address by now.
    pub fn listen(&self, backlog: u32) -> Result<(), ListenerError> {
        // The backlog belongs to whoever made the socket. Some systems even forbid to listen again (SELinux).
        if !self.is_ours() && getsockopt(&self.fd, sockopt::AcceptConn).unwrap_or(false) {
            return Ok(());
        }
        // nix knows 4096 as the greatest; beyond, -1 means whatever net.core.somaxconn allows.
        let backlog = i32::try_from(backlog).ok().and_then(|backlog| Backlog::new(backlog).ok());
        listen(&self.fd, backlog.unwrap_or(Backlog::MAXALLOWABLE)).map_err(|errno| match self.actual {
            BindKind::Tcp(tcp) => {
                self.fail("listen on", &tcp_reason(errno, tcp)).with_busy(errno == Errno::EADDRINUSE)
            }
            _ => self.fail("listen on", errno.desc()),
        })
    }

    /// Master: gives a Unix socket's file its mode and, with `owner` (uid, gid), its owner, in place. Nothing for TCP.
    ///
    /// # Errors
    /// The file is gone, or not ours to change.
    pub fn set_access(&self, umask: u32, owner: Option<(u32, u32)>) -> Result<(), ListenerError> {
        let (BindKind::Unix(path), true) = (&self.actual, self.is_ours() && self.owns_file()) else {
            return Ok(());
        };
        let fail = |error: io::Error| self.fail("change the access of", &crate::error::io_text(&error));
        // Whoever can write the directory may put a symlink there in this very moment: it is not followed.
        let mode = Mode::from_bits_truncate(0o777 & !umask);
        match fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink) {
            Ok(()) => {}
            // The C library asks /proc for it where the kernel cannot (before 6.6).
            Err(Errno::EOPNOTSUPP) if !Path::new("/proc/self/fd").exists() => {
                fs::set_permissions(path, Permissions::from_mode(mode.bits())).map_err(fail)?;
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(fail)?;
        }
        Ok(())
    }

    /// Master: lets nobody new in, and keeps everybody who is queued: they can still be accepted and served. TCP
    /// newcomers get no answer until the socket is closed; for a Unix socket the file is unlinked. An abstract name
    /// cannot be taken away before the socket is closed: its backlog shrinks to nothing, so that newcomers wait, and
    /// one of them may be let in.
    ///
    /// Does nothing to a socket that others hold.
    ///
    /// # Errors
    /// The kernel refuses the filter; newcomers are still let in then.
    pub fn stop_new_connections(&self) -> Result<(), ListenerError> {
        if !self.is_ours() {
            return Ok(());
        }
        match self.actual {
            BindKind::Tcp(_) => filter::drop_new_connections(&self.fd)
                .map_err(|error| self.fail("keep new connections out of", &crate::error::io_text(&error))),
            BindKind::Unix(_) => {
                self.unlink();
                Ok(())
            }
            BindKind::Abstract(_) => Backlog::new(0)
                .and_then(|none| listen(&self.fd, none))
                .map_err(|errno| self.fail("keep new connections out of", errno.desc())),
            // What was passed has one of the addresses above.
            BindKind::Fd(_) | BindKind::FdName(_) => Ok(()),
        }
    }

    /// Master: closes the socket for everybody, and unlinks its file unless another program has put its own there.
    /// Its queue must be empty. A process that an application forked may have inherited the descriptor; shut down, the
    /// socket listens no more for it either, and the port is free. What others hold is only left.
    pub fn close_and_unlink(self) {
        if !self.is_ours() {
            return;
        }
        // Fails for a socket that never listened, which nobody could connect to.
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Both);
        self.unlink();
    }

    /// What the operator wrote and what it stands for.
    pub fn address(&self) -> &BindAddress {
        &self.address
    }

    /// The address the socket has: as asked, with the port that the kernel chose for 0.
    pub fn actual(&self) -> &BindKind {
        &self.actual
    }

    /// The socket's own inode, as in /proc/PID/fd and `ss -e`: the same over a reload if the socket is.
    pub fn inode(&self) -> u64 {
        // fstat(2) on an open descriptor fails only when memory is short; no socket has inode 0.
        nix::sys::stat::fstat(&self.fd).map_or(0, |found| found.st_ino)
    }

    /// For children and exec: the descriptor without the listener's duties. Dropping it unlinks nothing.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn fail(&self, operation: &'static str, why: &str) -> ListenerError {
        ListenerError::new(operation, &self.address, why)
    }

    fn bind_tcp(address: &BindAddress, tcp: SocketAddr, sharing: Sharing) -> Result<Self, ListenerError> {
        let fail = |errno: Errno| {
            ListenerError::new("bind", address, tcp_reason(errno, tcp)).with_busy(errno == Errno::EADDRINUSE)
        };
        let family = if tcp.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = new_socket(family).map_err(fail)?;
        // Without it, connections in TIME_WAIT keep a restart from binding for a minute.
        setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(fail)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true).map_err(fail)?;
        if sharing == Sharing::Shared {
            setsockopt(&fd, sockopt::ReusePort, &true).map_err(fail)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(tcp)).map_err(fail)?;
        let actual = bound_address(&fd).map_err(fail)?.unwrap_or(tcp);
        Ok(Self::new(fd, address, BindKind::Tcp(actual), None))
    }

    fn new(fd: OwnedFd, address: &BindAddress, actual: BindKind, file: Option<(u64, u64)>) -> Self {
        Self { fd, address: address.clone(), actual, file, holder: Cell::new(Holder::Alone) }
    }

    /// An abstract name: it has no file, no owner and no mode, and goes with the socket (unix(7)).
    fn bind_abstract(address: &BindAddress, name: &str) -> Result<Self, ListenerError> {
        let fail = |errno: Errno| {
            let advice = if errno == Errno::EADDRINUSE {
                "; another program has this name: stop it or choose another"
            } else {
                ""
            };
            ListenerError::new("bind", address, format!("{}{advice}", errno.desc()))
                .with_busy(errno == Errno::EADDRINUSE)
        };
        let unix = UnixAddr::new_abstract(name.as_bytes()).map_err(fail)?;
        let fd = new_socket(AddressFamily::Unix).map_err(fail)?;
        bind(fd.as_raw_fd(), &unix).map_err(fail)?;
        Ok(Self::new(fd, address, BindKind::Abstract(name.to_owned()), None))
    }

    fn bind_unix(address: &BindAddress, path: &Path, umask: u32) -> Result<Self, ListenerError> {
        let fail = |why: String| ListenerError::new("bind", address, why);
        let length = path.as_os_str().len();
        if length > LONGEST_PATH {
            return Err(fail(format!(
                "the path {} has {length} bytes and a Unix socket's may have {LONGEST_PATH}; choose a shorter one",
                path.display()
            )));
        }
        let unix = UnixAddr::new(path).map_err(|errno| fail(errno.desc().to_owned()))?;
        let fd = new_socket(AddressFamily::Unix).map_err(|errno| fail(errno.desc().to_owned()))?;
        // Not bound under a temporary name and renamed: nobody can connect before listen(2) anyway, so there is no
        // window to close, and getsockname(2) and ss(8) would show the temporary name for ever. bind(2) itself
        // refuses a path that somebody else took in the meantime.
        let in_use = remove_stale(path, &unix).map_err(fail)?;
        if in_use {
            let why =
                format!("another program listens on {}; stop it or choose another path", path.display());
            return Err(fail(why).with_busy(true));
        }
        bind(fd.as_raw_fd(), &unix)
            .map_err(|errno| fail(unix_reason(errno, path)).with_busy(errno == Errno::EADDRINUSE))?;
        let file = fs::symlink_metadata(path).ok().map(|found| identity(&found));
        let listener = Self::new(fd, address, BindKind::Unix(path.to_owned()), file);
        // chmod(2) instead of a changed umask: the umask is the whole process's. Nobody can connect yet.
        if let Err(error) = listener.set_access(umask, None) {
            listener.close_and_unlink();
            return Err(error);
        }
        Ok(listener)
    }

    /// Whether the file at our path is still the one we made.
    fn owns_file(&self) -> bool {
        match (&self.actual, self.file) {
            (BindKind::Unix(path), Some(file)) => {
                fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == file)
            }
            _ => false,
        }
    }

    /// Whether the file that we made at our path is gone, and nothing is in its place: nobody can connect any more.
    pub fn is_lost(&self) -> bool {
        match (&self.actual, self.file) {
            (BindKind::Unix(path), Some(_)) if self.is_ours() => {
                fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            }
            _ => false,
        }
    }

    fn unlink(&self) {
        if let BindKind::Unix(path) = &self.actual
            && self.owns_file()
        {
            // A file that cannot be removed is stale for the next start, which says so.
            let _ = fs::remove_file(path);
        }
    }
}

fn new_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

fn bound_address(fd: &OwnedFd) -> nix::Result<Option<SocketAddr>> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    Ok(match address.family() {
        Some(AddressFamily::Inet) => {
            address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()))
        }
        Some(AddressFamily::Inet6) => {
            address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into()))
        }
        _ => None,
    })
}

/// Where a bound socket can be reached; none for one without an address.
fn actual_address(fd: &OwnedFd) -> nix::Result<Option<BindKind>> {
    if let Some(tcp) = bound_address(fd)? {
        return Ok(Some(BindKind::Tcp(tcp)));
    }
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let Some(unix) = address.as_unix_addr() else { return Ok(None) };
    if let Some(path) = unix.path() {
        return Ok(Some(BindKind::Unix(path.to_owned())));
    }
    Ok(unix.as_abstract().map(|name| BindKind::Abstract(String::from_utf8_lossy(name).into_owned())))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Removes a socket file that nobody listens on; refuses anything else that lies there. True: somebody does listen.
fn remove_stale(path: &Path, unix: &UnixAddr) -> Result<bool, String> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(crate::error::io_text(&error)),
    };
    if !found.file_type().is_socket() {
        return Err(format!(
            "{} exists and is not a socket; remove it or choose another path",
            path.display()
        ));
    }
    // Non-blocking: a full backlog answers EAGAIN, which is an answer.
    let probe = new_socket(AddressFamily::Unix).map_err(|errno| errno.desc().to_owned())?;
    match connect(probe.as_raw_fd(), unix) {
        Err(Errno::ECONNREFUSED) => {}
        Err(Errno::ENOENT) => return Ok(false),
        Err(Errno::EACCES | Errno::EPERM) => {
            return Err(format!(
                "a socket of another user is at {}; remove it or choose another path",
                path.display()
            ));
        }
        _ => return Ok(true),
    }
    match fs::symlink_metadata(path) {
        // Somebody else replaced it meanwhile; bind(2) will say so.
        Ok(now) if identity(&now) != identity(&found) => Ok(false),
        _ => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
                "the stale socket {} cannot be removed ({}); remove it",
                path.display(),
                crate::error::io_text(&error)
            )),
            _ => Ok(false),
        },
    }
}

/// The kernel's reason, with what to do about it.
fn tcp_reason(errno: Errno, tcp: SocketAddr) -> String {
    let advice = match errno {
        Errno::EACCES | Errno::EPERM if tcp.port() < 1024 => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: start as root with --user, or choose a higher port"
        }
        Errno::EADDRINUSE if tcp.is_ipv6() && tcp.ip().is_unspecified() => {
            "; another socket has this port, perhaps an IPv4 one, since [::] stands for both: stop it or choose \
             another port"
        }
        Errno::EADDRINUSE => "; another program listens there: stop it or choose another port",
        Errno::EADDRNOTAVAIL => {
            "; no interface of this machine has this address: choose one that does, or 0.0.0.0"
        }
        Errno::EAFNOSUPPORT => "; this machine has no IPv6: choose an IPv4 address",
        _ => "",
    };
    format!("{}{advice}", errno.desc())
}

fn unix_reason(errno: Errno, path: &Path) -> String {
    let directory = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    match errno {
        Errno::ENOENT => format!("there is no directory {}; create it", directory.display()),
        Errno::EACCES | Errno::EPERM => {
            format!("{}; make {} writable for the master's user", errno.desc(), directory.display())
        }
        Errno::EADDRINUSE => format!("another program has just taken {}; stop it", path.display()),
        _ => errno.desc().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::temp_dir::TempDir;

    fn address(text: &str) -> BindAddress {
        BindAddress::resolve(text, Path::new("/")).unwrap()
    }

    fn unix(path: &Path) -> BindAddress {
        BindAddress { text: format!("unix:{}", path.display()), kind: BindKind::Unix(path.to_owned()) }
    }

    fn tcp(listener: &Listener) -> SocketAddr {
        let BindKind::Tcp(address) = listener.actual() else { panic!("{listener}") };
        *address
    }

    fn accept_one(listener: &Listener) -> io::Result<OwnedFd> {
        let fd = listener.fd.try_clone()?;
        match listener.actual() {
            BindKind::Tcp(_) => TcpListener::from(fd).accept().map(|(stream, _)| stream.into()),
            _ => UnixListener::from(fd).accept().map(|(stream, _)| stream.into()),
        }
    }

    fn is_empty(listener: &Listener) -> bool {
        accept_one(listener).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn binds_listens_and_shows_the_port_it_got() {
        let listener = Listener::bind(&address("127.0.0.1:0"), 0).unwrap();
        assert!(TcpStream::connect(tcp(&listener)).is_err(), "bound is not listening");
        listener.listen(5).unwrap();
        assert_ne!(tcp(&listener).port(), 0);
        assert_eq!(listener.to_string(), format!("http://127.0.0.1:{}", tcp(&listener).port()));
        assert!(TcpStream::connect(tcp(&listener)).is_ok());
        assert!(accept_one(&listener).is_ok());
        assert!(is_empty(&listener), "non-blocking");
        assert_ne!(listener.inode(), 0);
    }

    /// Linux copies it when a handshake ends, so that no worker class need set it.
    #[test]
    fn an_accepted_connection_has_tcp_nodelay_from_its_listener() {
        let listener = Listener::bind(&address("127.0.0.1:0"), 0).unwrap();
        listener.listen(5).unwrap();
        let _client = TcpStream::connect(tcp(&listener)).unwrap();
        let accepted = TcpStream::from(accept_one(&listener).unwrap());
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn ipv6_stands_in_brackets() {
        match Listener::bind(&address("[::1]:0"), 0) {
            Ok(listener) => assert!(listener.to_string().starts_with("http://[::1]:"), "{listener}"),
            // A machine without IPv6.
            Err(error) => assert!(error.to_string().starts_with("cannot bind [::1]:0: "), "{error}"),
        }
    }

    #[test]
    fn the_backlog_changes_in_place() {
        let listener = Listener::bind(&address("127.0.0.1:0"), 0).unwrap();
        let inode = listener.inode();
        let connect_some = || -> (Vec<OwnedFd>, usize) {
            let clients: Vec<OwnedFd> = (0..6).map(|_| new_socket(AddressFamily::Inet).unwrap()).collect();
            for client in &clients {
                let _ = connect(client.as_raw_fd(), &SockaddrStorage::from(tcp(&listener)));
            }
            let connected = clients.iter().filter(|client| is_ready(*client, PollFlags::POLLOUT, 20)).count();
            (clients, connected)
        };
        listener.listen(1).unwrap();
        let (_few, connected) = connect_some();
        assert!(connected < 6, "a backlog of 1 keeps {connected} clients");
        // More than net.core.somaxconn is not refused.
        listener.listen(1_000_000).unwrap();
        let (_many, connected) = connect_some();
        assert_eq!(connected, 6);
        assert_eq!(listener.inode(), inode);
    }

    #[test]
    fn a_port_in_use_is_one_sentence() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = other.local_addr().unwrap().to_string();
        let error = Listener::bind(&address(&text), 0).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot bind {text}: Address already in use; another program listens there: stop it or choose another port"
            )
        );
    }

    #[test]
    fn of_two_that_could_bind_only_one_can_listen() {
        let first = Listener::bind(&address("127.0.0.1:0"), 0).unwrap();
        let text = tcp(&first).to_string();
        let second = Listener::bind(&address(&text), 0).unwrap();
        first.listen(1).unwrap();
        let error = second.listen(1).unwrap_err().to_string();
        let expected =
            format!("cannot listen on {text}: Address already in use; another program listens there");
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_one_sentence() {
        let error = Listener::bind(&address("192.0.2.1:80"), 0).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot bind 192.0.2.1:80: Cannot assign requested address; no interface"),
            "{error}"
        );
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_is_unlinked() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let listener = Listener::bind(&unix(&path), 0o027).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o750);
        listener.set_access(0, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
        assert_eq!(listener.to_string(), format!("unix:{}", path.display()));
        listener.listen(5).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        listener.close_and_unlink();
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let other = UnixListener::bind(&path).unwrap();
        let error = Listener::bind(&unix(&path), 0).unwrap_err().to_string();
        assert!(
            error.ends_with("s; stop it or choose another path") && error.contains("another program"),
            "{error}"
        );
        assert!(UnixStream::connect(&path).is_ok(), "the live one still answers");
        drop(other);
        let listener = Listener::bind(&unix(&path), 0).unwrap();
        listener.listen(5).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_is_no_stream_socket_stays() {
        let temp = TempDir::new("listener");
        let (file, datagram, link) = (temp.join("file"), temp.join("datagram"), temp.join("link"));
        fs::write(&file, "precious").unwrap();
        let _other = UnixDatagram::bind(&datagram).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &datagram, &link] {
            assert!(Listener::bind(&unix(path), 0).is_err(), "{}", path.display());
            assert!(fs::symlink_metadata(path).is_ok());
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn another_programs_file_is_not_unlinked() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let listener = Listener::bind(&unix(&path), 0).unwrap();
        fs::rename(&path, temp.join("away")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        listener.close_and_unlink();
        assert!(path.exists());
    }

    #[test]
    fn paths_have_a_limit_and_directories_must_exist() {
        let long = format!("/{}", "p".repeat(LONGEST_PATH));
        let error = Listener::bind(&unix(Path::new(&long)), 0).unwrap_err().to_string();
        assert!(
            error.contains("has 108 bytes and a Unix socket's may have 107; choose a shorter one"),
            "{error}"
        );
        let error = Listener::bind(&address("unix:/nowhere/s"), 0).unwrap_err().to_string();
        assert_eq!(error, "cannot bind unix:/nowhere/s: there is no directory /nowhere; create it");
    }

    /// Whether a socket becomes readable or writable within the time.
    fn is_ready(fd: &impl AsFd, what: PollFlags, milliseconds: u16) -> bool {
        let mut descriptors = [PollFd::new(fd.as_fd(), what)];
        loop {
            match poll(&mut descriptors, PollTimeout::from(milliseconds)) {
                // Other tests of this process have handlers for signals.
                Err(Errno::EINTR) => {}
                found => return found.unwrap() > 0,
            }
        }
    }

    #[test]
    fn the_queue_is_served_and_newcomers_are_not_let_in() {
        let listener = Listener::bind(&address("127.0.0.1:0"), 0).unwrap();
        listener.listen(64).unwrap();
        let mut established = TcpStream::connect(tcp(&listener)).unwrap();
        let mut served = TcpStream::from(accept_one(&listener).unwrap());
        let mut queued: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(tcp(&listener)).unwrap()).collect();
        for client in &mut queued {
            client.write_all(b"hello").unwrap();
        }

        listener.stop_new_connections().unwrap();

        let newcomer = new_socket(AddressFamily::Inet).unwrap();
        let address = SockaddrStorage::from(tcp(&listener));
        assert_eq!(connect(newcomer.as_raw_fd(), &address), Err(Errno::EINPROGRESS));
        assert!(!is_ready(&newcomer, PollFlags::POLLOUT, 200), "neither let in nor reset");

        established.write_all(b"on").unwrap();
        let mut two = [0; 2];
        served.read_exact(&mut two).unwrap();
        for client in &mut queued {
            let mut connection = TcpStream::from(accept_one(&listener).unwrap());
            connection.set_nonblocking(false).unwrap();
            let mut hello = [0; 5];
            connection.read_exact(&mut hello).unwrap();
            connection.write_all(&hello).unwrap();
            client.read_exact(&mut hello).unwrap();
            assert_eq!(&hello, b"hello");
        }
        assert!(is_empty(&listener));
    }

    #[test]
    fn a_unix_queue_is_served_and_newcomers_find_nothing() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let listener = Listener::bind(&unix(&path), 0).unwrap();
        listener.listen(8).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        listener.stop_new_connections().unwrap();
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(accept_one(&listener).is_ok());
    }

    #[test]
    fn an_abstract_name_has_no_file_and_one_holder() {
        let name = format!("rg-listener-{}", std::process::id());
        let text = format!("unix:@{name}");
        let listener = Listener::bind(&address(&text), 0).unwrap();
        listener.listen(8).unwrap();
        assert_eq!(listener.to_string(), text);
        let error = Listener::bind(&address(&text), 0).unwrap_err();
        assert_eq!(error.busy(), Some(text.as_str()));
        assert!(
            error.to_string().ends_with("another program has this name: stop it or choose another"),
            "{error}"
        );
        let connect_to = || {
            let client = new_socket(AddressFamily::Unix).unwrap();
            connect(client.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).map(|()| client)
        };
        let _queued = connect_to().unwrap();
        listener.stop_new_connections().unwrap();
        assert_eq!(connect_to().unwrap_err(), Errno::EAGAIN, "who comes now waits");
        assert!(accept_one(&listener).is_ok());
        listener.close_and_unlink();
        assert_eq!(connect_to().unwrap_err(), Errno::ECONNREFUSED);
    }

    #[test]
    fn what_others_hold_is_only_left() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let theirs = UnixListener::bind(&path).unwrap();
        let handed = address("fd://3");
        let adopt = || {
            let copy = theirs.as_fd().try_clone_to_owned().unwrap();
            Listener::adopt(copy, &handed, Holder::Foreign, Some((0, 0))).unwrap()
        };
        let ours = adopt();
        assert_eq!((ours.to_string(), ours.is_ours()), (format!("unix:{}", path.display()), false));
        ours.listen(1).unwrap();
        ours.set_access(0o777, None).unwrap();
        ours.stop_new_connections().unwrap();
        ours.share();
        ours.reclaim();
        assert_eq!(ours.holder(), Holder::Foreign);
        ours.close_and_unlink();
        assert!(UnixStream::connect(&path).is_ok(), "it listens as before");
        assert_ne!(fs::metadata(&path).unwrap().mode() & 0o777, 0);
        drop(adopt());
    }

    #[test]
    fn what_is_shared_for_a_while_becomes_ours_again() {
        let temp = TempDir::new("listener");
        let path = temp.join("s");
        let listener = Listener::bind(&unix(&path), 0).unwrap();
        listener.listen(8).unwrap();
        listener.share();
        listener.stop_new_connections().unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        listener.reclaim();
        listener.close_and_unlink();
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_listened_on_is_not_adopted() {
        let (pair, _other) = UnixStream::pair().unwrap();
        let temp = TempDir::new("listener");
        let datagram = UnixDatagram::bind(temp.join("d")).unwrap();
        let cases = [
            (OwnedFd::from(pair), "cannot use fd://3: it has no address; bind it before it is passed"),
            (OwnedFd::from(datagram), "cannot use fd://3: it is no stream socket; pass one"),
            (
                OwnedFd::from(fs::File::open("/dev/null").unwrap()),
                "cannot use fd://3: Socket operation on non-socket",
            ),
        ];
        for (fd, expected) in cases {
            let error =
                Listener::adopt(fd, &address("fd://3"), Holder::Foreign, None).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
