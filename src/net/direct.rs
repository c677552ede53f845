//! Reading and writing a socket without a detour.
//!
//! `recv` and `send` of the C library are points at which a thread may be cancelled: in a program with threads each
//! call pays for two atomic exchanges. Nobody cancels our threads, so these go straight to the kernel.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A socket, for one call.
#[derive(Debug)]
pub(super) struct Direct<'a>(pub(super) &'a TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (len, _) = recv(self.0, buffer, RecvFlags::empty())?;
        Ok(len)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A connection that has ended is an error here, never a signal.
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
