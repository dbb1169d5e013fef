//! One NBD client, from the handshake to its last request. Sans-thread: it is given a stream and a disk.

use super::counters::Counters;
use super::trap::Change;
use super::wire::{self, Command, Request};
use super::{Medium, Refusal, Shared};
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};

/// Speaks with one client until it leaves. An error here ends this client only.
pub(crate) fn serve<M: Medium>(
    stream: &mut (impl Read + Write),
    shared: &Shared<M>,
    epoch: u64,
) -> Result<()> {
    if negotiate(stream, shared)? { transmit(stream, shared, epoch) } else { Ok(()) }
}

/// True when the client wants the disk, false when it only wanted to look.
fn negotiate<M: Medium>(stream: &mut (impl Read + Write), shared: &Shared<M>) -> Result<bool> {
    let size = shared.disk().size();
    let mut hello = Vec::with_capacity(18);
    hello.extend(wire::NBDMAGIC.to_be_bytes());
    hello.extend(wire::IHAVEOPT.to_be_bytes());
    hello.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    stream.write_all(&hello)?;
    let client = u32::from_be_bytes(take(stream)?);
    ensure!(
        client & u32::from(wire::FIXED_NEWSTYLE) != 0,
        "client speaks no fixed newstyle: flags {client:#x}"
    );
    let no_zeroes = client & u32::from(wire::NO_ZEROES) != 0;

    loop {
        ensure!(u64::from_be_bytes(take(stream)?) == wire::IHAVEOPT, "option without its magic");
        let option = u32::from_be_bytes(take(stream)?);
        let length = u32::from_be_bytes(take(stream)?);
        ensure!(length <= wire::MAX_OPTION, "option {option} with {length} bytes");
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut reply = |kind, body: &[u8]| stream.write_all(&wire::option_reply(option, kind, body));
        match option {
            wire::OPT_EXPORT_NAME => {
                // this option has no error reply: an unknown name can only be answered by leaving
                ensure!(data.is_empty(), "no export of that name; ours has the empty name");
                let mut out = Vec::with_capacity(134);
                out.extend(size.to_be_bytes());
                out.extend(wire::EXPORT_FLAGS.to_be_bytes());
                out.resize(if no_zeroes { 10 } else { 134 }, 0);
                stream.write_all(&out)?;
                return Ok(true);
            }
            wire::OPT_ABORT => {
                reply(wire::REP_ACK, &[])?;
                return Ok(false);
            }
            wire::OPT_LIST if data.is_empty() => {
                reply(wire::REP_SERVER, &0_u32.to_be_bytes())?;
                reply(wire::REP_ACK, &[])?;
            }
            wire::OPT_GO | wire::OPT_INFO => match wire::name_of_go(&data) {
                Some([]) => {
                    reply(wire::REP_INFO, &wire::info_export(size))?;
                    reply(wire::REP_INFO, &wire::info_block_size())?;
                    reply(wire::REP_ACK, &[])?;
                    if option == wire::OPT_GO {
                        return Ok(true);
                    }
                }
                Some(_) => reply(wire::REP_ERR_UNKNOWN, b"the one export has the empty name")?,
                None => reply(wire::REP_ERR_INVALID, &[])?,
            },
            wire::OPT_LIST => reply(wire::REP_ERR_INVALID, &[])?,
            _ => reply(wire::REP_ERR_UNSUP, &[])?,
        }
    }
}

fn transmit<M: Medium>(stream: &mut (impl Read + Write), shared: &Shared<M>, epoch: u64) -> Result<()> {
    loop {
        let mut head = [0; Request::SIZE];
        match stream.read_exact(&mut head) {
            Ok(()) => {}
            // QEMU killed: no goodbye
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("reading a request"),
        }
        let Some(request) = Request::parse(&head) else { bail!("request without its magic") };
        let data = if request.command == Command::Write {
            ensure!(request.length <= wire::MAX_PAYLOAD, "write of {} bytes", request.length);
            let mut data = vec![0; request.length as usize];
            stream.read_exact(&mut data)?;
            data
        } else {
            Vec::new()
        };
        if request.command == Command::Disconnect {
            return Ok(());
        }
        let sprung = change(&request, &data).is_some_and(|change| shared.trap.springs(&change));
        let Some(answer) = shared.at_epoch(epoch, |disk, counters| answer(&request, data, disk, counters))
        else {
            // the power was cut while this request was on its way
            return Ok(());
        };
        if sprung {
            shared.trap.hold();
            return Ok(());
        }
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (error, Vec::new()),
        };
        stream.write_all(&wire::simple_reply(request.handle, error))?;
        stream.write_all(&body)?;
    }
}

/// What this request would change, as a trap sees it.
fn change<'a>(request: &Request, data: &'a [u8]) -> Option<Change<'a>> {
    let (at, length) = (request.offset, u64::from(request.length));
    match request.command {
        Command::Write => Some(Change { at, length, data: Some(data) }),
        Command::Trim | Command::WriteZeroes => Some(Change { at, length, data: None }),
        Command::Read | Command::Flush | Command::Disconnect | Command::Unknown(_) => None,
    }
}

fn answer<M: Medium>(
    request: &Request,
    data: Vec<u8>,
    disk: &mut super::Volatile<M>,
    counters: &Counters,
) -> Result<Vec<u8>, u32> {
    let (at, length) = (request.offset, u64::from(request.length));
    let placed = |refusal| match refusal {
        Refusal::Unaligned => wire::EINVAL,
        Refusal::OutOfRange if request.command == Command::Read => wire::EINVAL,
        Refusal::OutOfRange => wire::ENOSPC,
    };
    let failed = |error: std::io::Error| {
        eprintln!("lab: disk: {error}");
        wire::EIO
    };
    match request.command {
        Command::Read => {
            disk.check(at, length).map_err(placed)?;
            if request.length > wire::MAX_PAYLOAD {
                return Err(wire::EINVAL);
            }
            let mut out = vec![0; length as usize];
            disk.read(at, &mut out).map_err(failed)?;
            Counters::add(&counters.reads, 1);
            Counters::add(&counters.bytes_read, length);
            Ok(out)
        }
        Command::Write => {
            disk.check(at, length).map_err(placed)?;
            disk.write(at, data, request.fua()).map_err(failed)?;
            counters.changed(at, length);
            Counters::add(&counters.writes, 1);
            Counters::add(&counters.fua_writes, u64::from(request.fua()));
            Counters::add(&counters.bytes_written, length);
            Ok(Vec::new())
        }
        Command::Flush => {
            disk.flush().map_err(failed)?;
            Counters::add(&counters.flushes, 1);
            Ok(Vec::new())
        }
        Command::Trim | Command::WriteZeroes => {
            disk.check(at, length).map_err(placed)?;
            disk.zero(at, length, request.fua()).map_err(failed)?;
            let counter =
                if request.command == Command::Trim { &counters.trims } else { &counters.write_zeroes };
            counters.changed(at, length);
            Counters::add(counter, 1);
            Ok(Vec::new())
        }
        Command::Disconnect | Command::Unknown(_) => Err(wire::EINVAL),
    }
}

fn take<const N: usize>(stream: &mut impl Read) -> Result<[u8; N]> {
    let mut out = [0; N];
    stream.read_exact(&mut out).context("client left in the handshake")?;
    Ok(out)
}
