//! The host between machine and provisioner. It ends TLS on both sides, with the keys of this test's cluster, so that
//! each exchange is known for what it is and the provisioner can be killed exactly there.

use super::cut::{Exchange, Moment, Watch, fetch};
use super::home::Home;
use super::lan::{Host, Lan, MIDDLE, PROVISIONER};
use super::machine::Machine;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use muster_identity::http::Client;
use muster_identity::{Expect, Identity, client_config, server_config};
use muster_protocol::hello::{Answer, Hello};
use muster_protocol::ids::Digest;
use muster_protocol::wire;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Middle {
    pub(crate) watch: Mutex<Watch>,
    /// Every `hello` with its answer, in their order.
    pub(crate) hellos: Mutex<Vec<(Hello, Answer)>>,
    home: Arc<Home>,
    machine: Arc<Machine>,
    names: BTreeMap<Digest, &'static str>,
    /// Told of each kill.
    killed: Mutex<Sender<()>>,
}

impl Middle {
    /// Returns when both of its ports are open. Its threads end with the test's process.
    pub(crate) fn start(
        lan: &Lan,
        home: &Arc<Home>,
        machine: &Arc<Machine>,
        killed: Sender<()>,
    ) -> Arc<Self> {
        let middle = Arc::new(Self {
            watch: Mutex::default(),
            hellos: Mutex::default(),
            home: home.clone(),
            machine: machine.clone(),
            names: home.artifacts(),
            killed: Mutex::new(killed),
        });
        let (open, is_open) = channel();
        let (own, told) = (middle.clone(), open.clone());
        let _for_ever = lan.run(Host::Middle, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, serve_agents(own, told));
        });
        let own = middle.clone();
        let _for_ever = lan.run(Host::Middle, move || {
            let listener = TcpListener::bind(SocketAddr::from((MIDDLE, 80))).unwrap();
            open.send(()).unwrap();
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                // A broken connection is what this is about.
                std::thread::spawn(move || own.serve_artifacts(&stream));
            }
        });
        for _port in 0..2 {
            is_open.recv_timeout(LIMIT).unwrap();
        }
        middle
    }

    fn kill(&self) {
        self.home.kill();
        self.killed.lock().unwrap().send(()).unwrap();
    }

    /// One exchange; `None` breaks the connection.
    async fn relay(&self, upstream: &mut Client, path: &str, question: Vec<u8>) -> Option<(u16, Vec<u8>)> {
        let due = {
            let mut watch = self.watch.lock().unwrap();
            let passing: Vec<Exchange> = watch.question(path, &question);
            watch.due(&passing)
        };
        if due == Some(Moment::Unheard) {
            self.kill();
            return None;
        }
        let answer = upstream.post(path, "application/octet-stream", question.clone(), LIMIT).await.ok();
        if let Some(answer) = answer.as_ref().filter(|answer| answer.status == 200 && path == "/agent/hello")
        {
            let hello = (wire::decode(&question).unwrap(), wire::decode(&answer.body).unwrap());
            self.hellos.lock().unwrap().push(hello);
        }
        if due.is_some() {
            assert!(answer.is_some(), "it died before it was killed: {}", self.home.said());
            self.kill();
        }
        answer.filter(|_| due != Some(Moment::Unanswered)).map(|answer| (answer.status, answer.body))
    }

    /// Requests on one connection, until one side ends it.
    fn serve_artifacts(&self, stream: &TcpStream) -> io::Result<()> {
        let mut questions = BufReader::new(stream.try_clone()?);
        loop {
            let question = head(&mut questions)?;
            let first = question.lines().next().unwrap_or_default();
            let digest = first.split(['/', ' ']).find_map(|part| part.parse::<Digest>().ok());
            let passing = digest.map(|digest| fetch(&self.names, &digest)).unwrap_or_default();
            let due = self.watch.lock().unwrap().due(&passing);
            if due == Some(Moment::Unheard) {
                self.kill();
                return Ok(());
            }
            let answer = ask_artifact(&question)?;
            let (mut to, sent) =
                (stream, if due == Some(Moment::Unanswered) { answer.len() / 2 } else { answer.len() });
            if due.is_some() {
                self.kill();
            }
            to.write_all(&answer[..sent])?;
            if due.is_some() {
                return Ok(());
            }
        }
    }
}

/// Everything up to the empty line.
fn head(from: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The provisioner's whole answer, head and body.
fn ask_artifact(question: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SocketAddr::from((PROVISIONER, 80)))?;
    stream.write_all(question.as_bytes())?;
    let mut stream = BufReader::new(stream);
    let head = head(&mut stream)?;
    let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let length: usize = head.lines().find_map(length).ok_or(io::ErrorKind::InvalidData)?;
    let mut answer = head.into_bytes();
    let body = answer.len();
    answer.resize(body + length, 0);
    stream.read_exact(&mut answer[body..])?;
    Ok(answer)
}

async fn serve_agents(middle: Arc<Middle>, open: Sender<()>) {
    let trust = middle.home.trust();
    let identity = Identity::provisioner(trust.cluster, &middle.home.online()).unwrap();
    let acceptor = TlsAcceptor::from(server_config(&identity, &trust).unwrap());
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((MIDDLE, 7480))).await.unwrap();
    open.send(()).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, middle, trust) = (acceptor.clone(), middle.clone(), trust.clone());
        tokio::task::spawn_local(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let identity = Identity::agent(trust.cluster, &middle.machine.key().unwrap()).unwrap();
            let config = client_config(&identity, &trust, Expect::Provisioner).unwrap();
            let upstream = Client::new(SocketAddr::from((PROVISIONER, 7480)), config);
            let upstream = Rc::new(tokio::sync::Mutex::new(upstream));
            let service = service_fn(move |request: Request<Incoming>| {
                let (middle, upstream) = (middle.clone(), upstream.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let question = request.into_body().collect().await.map_err(io::Error::other)?;
                    let question = question.to_bytes().to_vec();
                    let answer = middle.relay(&mut *upstream.lock().await, &path, question).await;
                    // An error makes hyper end the connection without a word.
                    let (status, body) = answer.ok_or(io::ErrorKind::ConnectionReset)?;
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                    response.map_err(io::Error::other)
                }
            });
            let _closed = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
