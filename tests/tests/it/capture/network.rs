//! Network namespaces as a cluster has them: a node that routes, and pods that hang on it by a line each.
//!
//! Everything is in namespaces of its own, so that tests with the same addresses run beside each other and nothing of
//! this machine's network changes. A socket belongs to the namespace in which it was made: so a server of a pod is a
//! thread that enters the pod, opens a socket and leaves it to this process, and no process has to be started and ended.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use leno_tests::{Outcome, PATIENCE, leno_proxy};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// Begins the names of namespaces; then the process and a number.
const PREFIX: &str = "leno-capture-";

/// Of pods.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A user and group that are nobody's.
const APP: u32 = 1999;
/// The proxy's, as in a pod.
pub(crate) const PROXY: u32 = 1337;

/// A node and pods; they end with the value.
pub(crate) struct Network {
    /// First the node, then the pods.
    names: Vec<String>,
}

impl Network {
    /// With three pods. Why there can be none, where that is so.
    pub(crate) fn new() -> Result<Self, String> {
        Self::of(3)
    }

    /// With up to six pods.
    pub(crate) fn of(pods: usize) -> Result<Self, String> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        if !rustix::process::geteuid().is_root() {
            return Err("only root makes network namespaces".to_owned());
        }
        static MADE: AtomicU32 = AtomicU32::new(0);
        let stem = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { names: Vec::new() };
        for part in ["node"].into_iter().chain(NAMES.into_iter().take(pods)) {
            let name = format!("{stem}-{part}");
            ip(&format!("netns add {name}"))?;
            network.names.push(name);
        }
        let [node, pods @ ..] = network.names.as_slice() else { unreachable!("the node was made") };
        ip(&format!("-n {node} link set lo up"))?;
        for (index, pod) in pods.iter().enumerate() {
            ip(&format!("-n {node} link add pod{index} type veth peer name eth0 netns {pod}"))?;
            ip(&format!("-n {node} address add 10.244.{index}.1/24 dev pod{index}"))?;
            ip(&format!("-n {node} address add fd00:244:{index}::1/64 dev pod{index} nodad"))?;
            ip(&format!("-n {node} link set pod{index} up"))?;
            ip(&format!("-n {pod} link set lo up"))?;
            ip(&format!("-n {pod} address add {}/24 dev eth0", v4(index)))?;
            ip(&format!("-n {pod} address add {}/64 dev eth0 nodad", v6(index)))?;
            ip(&format!("-n {pod} link set eth0 up"))?;
            ip(&format!("-n {pod} route add default via 10.244.{index}.1"))?;
            ip(&format!("-n {pod} -6 route add default via fd00:244:{index}::1"))?;
        }
        inside(node, Who::Root, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .map_err(|error| format!("the node cannot route: {error}"))?;
        Ok(network)
    }

    /// A command that runs a program on the node, as root.
    pub(crate) fn on_node(&self, program: &Path) -> Command {
        within(&self.names[0], program)
    }

    /// Pod 0 is called a, pod 1 b, and so on.
    pub(crate) fn pod(&self, index: usize) -> Pod {
        Pod { namespace: self.names[index + 1].clone(), index }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            // The lines go with their ends in there.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

/// Deletes what processes left that were killed in the middle.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn v4(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, index.try_into().unwrap(), 2)
}

fn v6(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, index.try_into().unwrap(), 0, 0, 0, 0, 2)
}

/// As whom something is done in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The owner of the machine, who sets up.
    Root,
    /// User and group of the app.
    App,
    /// User and group of the proxy.
    Proxy,
    /// The app's user with the proxy's group.
    ProxyGroup,
}

/// One pod of a [`Network`].
#[derive(Clone)]
pub(crate) struct Pod {
    namespace: String,
    index: usize,
}

impl Pod {
    /// `a`, `b`, `c` …
    pub(crate) fn name(&self) -> &'static str {
        NAMES[self.index]
    }

    /// Its address.
    pub(crate) fn v4(&self) -> Ipv4Addr {
        v4(self.index)
    }

    /// Its other address.
    pub(crate) fn v6(&self) -> Ipv6Addr {
        v6(self.index)
    }

    /// A command that runs a program in it, as root.
    pub(crate) fn command(&self, program: &Path) -> Command {
        within(&self.namespace, program)
    }

    /// What a shell prints; fails the test when a command fails.
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.command(Path::new("sh")).args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `leno-proxy redirect …` in it, as root.
    pub(crate) fn redirect(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(leno_proxy()).arg("redirect").args(arguments))
    }

    /// Starts a server that says its name and where the connection was going.
    pub(crate) fn serve(&self, name: &str, address: SocketAddr) -> Server {
        let listener = inside(&self.namespace, Who::Root, || listen(address));
        let listener = listener.unwrap_or_else(|error| panic!("{name} cannot listen at {address}: {error}"));
        let name = name.to_owned();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        Server(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let original = SockRef::from(&stream);
                let original = if address.is_ipv4() { original.original_dst_v4() } else { original.original_dst_v6() };
                let original = original.ok().and_then(|address| address.as_socket());
                let original = original.map_or("unknown".to_owned(), |address| address.to_string());
                // Whoever has gone does not want to know.
                let _ = stream.write_all(format!("{name} for {original}").as_bytes()).await;
            }
        }))
    }

    /// Passes connections to `at` in the pod on to `to` in the test's own network.
    pub(crate) fn forward(&self, at: SocketAddr, to: SocketAddr) -> Server {
        let listener = inside(&self.namespace, Who::Root, || listen(at));
        let listener = listener.unwrap_or_else(|error| panic!("nobody can listen at {at}: {error}"));
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        Server(tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                while lines.try_join_next().is_some() {}
                lines.spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(to).await else { return };
                    // Whoever ends it has a reason.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        }))
    }

    /// Connects to `address`, from `source` where that matters: what the server there says.
    pub(crate) fn ask(&self, who: Who, source: Option<IpAddr>, address: SocketAddr) -> io::Result<String> {
        inside(&self.namespace, who, || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::from((source, 0)).into())?;
            }
            socket.connect_timeout(&address.into(), PATIENCE)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            (&socket).read_to_string(&mut said)?;
            Ok(said)
        })
    }

    /// A socket for datagrams in it.
    pub(crate) fn datagrams(&self, address: SocketAddr) -> UdpSocket {
        let socket = inside(&self.namespace, Who::Root, || UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// A server of a pod, until it is dropped.
pub(crate) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn within(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Whether this machine has a program.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Outcome {
    outcome_of(command.stdin(Stdio::null()).output().unwrap())
}

/// The same with `input`.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Outcome {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    outcome_of(child.wait_with_output().unwrap())
}

fn outcome_of(output: Output) -> Outcome {
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Does `work` on a thread of its own in a namespace, as `who`; the thread ends, since there is no way back.
fn inside<T: Send>(namespace: &str, who: Who, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let enter = || -> io::Result<()> {
        let namespace = File::open(Path::new("/run/netns").join(namespace))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let (user, group) = match who {
            Who::Root => return Ok(()),
            Who::App => (APP, APP),
            Who::Proxy => (PROXY, PROXY),
            Who::ProxyGroup => (APP, PROXY),
        };
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        Ok(())
    };
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter()?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
