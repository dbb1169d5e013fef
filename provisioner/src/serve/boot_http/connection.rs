//! One connection: heads in, files out, until one side has enough.

use super::{
    Idle,
    request::{Head, LARGEST, Method, Request, Target, read},
    response::{Response, Status, refusal, respond},
};
use crate::boot::{
    event::{BootEvent, What},
    published::{NotServed, Opened, Published},
};
use nix::{
    errno::Errno,
    sys::{
        sendfile::sendfile,
        socket::{MsgFlags, send},
    },
};
use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    sync::{Notify, mpsc::UnboundedSender},
    time::timeout,
};
use tracing::{info, warn};

/// What all connections share.
pub(super) struct Served {
    pub(super) published: Published,
    pub(super) events: UnboundedSender<BootEvent>,
    pub(super) idle: Arc<Idle>,
}

/// Answers requests until the client closes, dawdles, or sends what cannot be answered.
pub(super) async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    served: Served,
    key: u64,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(1024);
    let home = Arc::new(Notify::new());
    loop {
        served.idle.enter(key, &home);
        let head = tokio::select! {
            head = timeout(FOR_A_HEAD, next_head(&mut stream, &mut bytes)) => head,
            () = home.notified() => return Ok(()),
        };
        served.idle.leave(key);
        let head = head.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (response, opened, name) = match &head {
            None => return Ok(()),
            Some(Ok(request)) => decide(request, &served.published),
            Some(Err(status)) => (refusal(*status, true), None, String::new()),
        };
        let close = response.close;
        answer(&mut stream, peer, &served, response, opened, name).await?;
        if close {
            // Whoever still sends must read the answer before it sees the reset.
            stream.shutdown().await?;
            let mut rest = [0; 1024];
            let mut most = 64;
            while most > 0 && matches!(timeout(FOR_THE_REST, stream.read(&mut rest)).await, Ok(Ok(1..))) {
                most -= 1;
            }
            return Ok(());
        }
    }
}

/// The next head and the bytes behind it kept for the one after; `None` at the end of the connection.
async fn next_head(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
) -> io::Result<Option<Result<Request, Status>>> {
    loop {
        match read(bytes) {
            Head::Whole { request, length } => {
                bytes.drain(..length);
                return Ok(Some(Ok(request)));
            }
            Head::Bad => return Ok(Some(Err(Status::BadRequest))),
            Head::Large => return Ok(Some(Err(Status::HeadTooLarge))),
            Head::Partial => {}
        }
        bytes.reserve(1024);
        // Bounded by the parser: what is as long as the largest head is whole, bad or large.
        debug_assert!(bytes.len() <= 2 * LARGEST);
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}

fn decide(request: &Request, published: &Published) -> (Response, Option<Opened>, String) {
    if request.method == Method::Other {
        return (refusal(Status::NotAllowed, request.close), None, String::new());
    }
    let name = match &request.target {
        None => return (refusal(Status::NotFound, request.close), None, String::new()),
        Some(Target::Boot(name)) => name.clone(),
        Some(Target::Artifact(digest)) => digest.to_string(),
    };
    match published.open(&name) {
        Ok(opened) => (respond(request, opened.size, opened.digest), Some(opened), name),
        Err(NotServed::Unknown) => (refusal(Status::NotFound, request.close), None, name),
        Err(why) => {
            warn!(name, %why, "file not served");
            (refusal(Status::Trouble, request.close), None, name)
        }
    }
}

async fn answer(
    stream: &mut TcpStream,
    peer: SocketAddr,
    served: &Served,
    response: Response,
    opened: Option<Opened>,
    name: String,
) -> io::Result<()> {
    let (Some(opened), Some((first, count))) = (opened, response.body) else {
        return within(stream.write_all(response.head.as_bytes())).await;
    };
    let tell = |what| {
        // The receiver is gone when the provisioner is ending.
        let _ = served.events.send(BootEvent { at: SystemTime::now(), mac: None, peer: peer.ip(), what });
    };
    // Agents fetch large artifacts in pieces: the first piece is the start and the last one the end.
    if first == 0 {
        tell(What::HttpStart { name: name.clone() });
    }
    let began = Instant::now();
    let sent = async {
        write_head(stream, response.head.as_bytes(), count > 0).await?;
        send_file(stream, &opened, first, count).await
    }
    .await;
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &sent {
        Ok(()) if first + count == opened.size => {
            info!(%peer, name, bytes = count, ms, "file sent");
            tell(What::HttpDone { name, bytes: count, ms });
        }
        Ok(()) => {}
        Err(error) => tell(What::HttpFailed { name, why: error.to_string() }),
    }
    sent
}

/// Sends the head, held back a moment so that it shares a packet with the first bytes of the file.
async fn write_head(stream: &mut TcpStream, mut head: &[u8], more: bool) -> io::Result<()> {
    let more = if more { MsgFlags::from_bits_retain(libc::MSG_MORE) } else { MsgFlags::empty() };
    let flags = MsgFlags::MSG_NOSIGNAL | more;
    while !head.is_empty() {
        let sent = within(stream.async_io(Interest::WRITABLE, || Ok(send(stream.as_raw_fd(), head, flags)?)))
            .await?;
        head = &head[sent..];
    }
    Ok(())
}

async fn send_file(stream: &TcpStream, opened: &Opened, first: u64, count: u64) -> io::Result<()> {
    let mut offset = i64::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut left = count;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        let sent = within(stream.async_io(Interest::WRITABLE, || {
            match sendfile(stream, &opened.file, Some(&mut offset), piece) {
                // The file got shorter than it was when it was opened.
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => Ok(sent),
                Err(Errno::EINTR) => Err(io::ErrorKind::WouldBlock.into()),
                Err(errno) => Err(errno.into()),
            }
        }))
        .await?;
        left -= sent as u64;
    }
    Ok(())
}

/// Any progress within the time; a client that takes nothing for so long is gone.
async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(WITHOUT_PROGRESS, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// From the last answer, or the start, to a whole head.
const FOR_A_HEAD: Duration = Duration::from_secs(15);
const FOR_THE_REST: Duration = Duration::from_millis(500);
const WITHOUT_PROGRESS: Duration = Duration::from_secs(30);
/// One call's share: enough to be cheap, not so much that a cold disk holds up the others for long.
const PIECE: usize = 1 << 20;
