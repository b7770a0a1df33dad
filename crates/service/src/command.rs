//! What the client commands of the daemons share: a connection, a deadline, and how an error of the service is told.

use std::{
    error::Error as _,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{exit::Exit, listen::GrpcAddress};

/// The wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The wait for the answer to one call; streams take as long as they take.
const CALL: Duration = Duration::from_secs(30);

/// The program whose commands these are; its name begins each complaint.
#[derive(Debug, Clone, Copy)]
pub struct Program(pub &'static str);

impl Program {
    /// Says on standard error what is wrong, and gives the exit status.
    pub fn complain(self, exit: Exit, error: &dyn std::fmt::Display) -> Exit {
        eprintln!("{}: {error}", self.0);
        exit
    }

    /// Reads the command line and does what it says, on a runtime of its own. What is wrong with the command line, and
    /// help and version, are told here.
    pub fn run<C, Done>(self, does: impl FnOnce(C) -> Done) -> Exit
    where
        C: Parser,
        Done: Future<Output = Result<(), Exit>>,
    {
        let cli = match C::try_parse() {
            Ok(cli) => cli,
            Err(error) => {
                // Whoever asked for help may have closed it.
                let _ = error.print();
                return if error.use_stderr() {
                    Exit::Usage
                } else {
                    Exit::Ok
                };
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let done = runtime.block_on(does(cli));
                // A look-up of a name that never ends must not hold the process.
                runtime.shutdown_background();
                done.err().unwrap_or(Exit::Ok)
            }
            Err(error) => self.complain(Exit::OsError, &error),
        }
    }

    /// Connects to the service.
    ///
    /// # Errors
    /// The exit status, after telling why.
    pub async fn connect(self, address: &GrpcAddress) -> Result<Channel, Exit> {
        address
            .connect(CONNECT)
            .await
            .map_err(|error| self.complain(Exit::from(&error), &error))
    }

    /// Tells what the service said, or that the connection was lost: a caller whose network is not allowed sees just that.
    #[must_use]
    pub fn refused(self, status: &Status) -> Exit {
        if status.source().is_some() {
            let lost = format!("the connection was lost: {}", status.message());
            return self.complain(Exit::Unavailable, &lost);
        }
        self.complain(Exit::from(status.code()), &status.message())
    }

    /// `healthcheck`: whether the service says that it serves.
    ///
    /// # Errors
    /// The exit status, after telling why.
    pub async fn healthcheck(self, address: &GrpcAddress) -> Result<(), Exit> {
        let mut health = HealthClient::new(self.connect(address).await?);
        let service = String::new();
        let answer = health.check(request(HealthCheckRequest { service })).await;
        match answer
            .map_err(|status| self.refused(&status))?
            .into_inner()
            .status()
        {
            ServingStatus::Serving => Ok(()),
            other => Err(self.complain(Exit::Unavailable, &other.as_str_name())),
        }
    }
}

/// Which service a client command speaks to.
#[derive(Debug, Args)]
pub struct Service {
    /// The configuration file that names the service's address
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// The service's address, IP:PORT or unix:/path
    #[arg(long, value_name = "ADDRESS")]
    address: Option<GrpcAddress>,
}

impl Service {
    /// The address: as given; or that of the configuration, which `read` reads and which lies at `usual` unless given; or
    /// the port that the service has without one.
    ///
    /// # Errors
    /// That of `read`.
    pub fn address(
        &self,
        usual: &str,
        port: u16,
        read: impl Fn(&Path) -> Result<GrpcAddress, Exit>,
    ) -> Result<GrpcAddress, Exit> {
        if let Some(address) = &self.address {
            return Ok(address.clone());
        }
        match &self.config {
            Some(file) => read(file),
            None if Path::new(usual).exists() => read(Path::new(usual)),
            None => {
                let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                Ok(GrpcAddress::Tcp(here))
            }
        }
    }
}

/// Says a line on standard output.
///
/// # Errors
/// [`Exit::Ok`] when whoever read it has seen enough and closed it: there is nothing left to do.
pub fn say(line: impl std::fmt::Display) -> Result<(), Exit> {
    writeln!(std::io::stdout(), "{line}").map_err(|_| Exit::Ok)
}

/// A request with a deadline, which the service sees too.
#[must_use]
pub fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL);
    request
}

/// The time of day of a timestamp, UTC.
#[must_use]
pub fn time_of_day(time: Option<prost_types::Timestamp>) -> String {
    let time = time.unwrap_or_default();
    let seconds = time.seconds.rem_euclid(86_400);
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The milliseconds from one timestamp to another; 0 if one of them is missing.
#[must_use]
pub fn between(start: Option<prost_types::Timestamp>, end: Option<prost_types::Timestamp>) -> f64 {
    let ms =
        |time: prost_types::Timestamp| time.seconds as f64 * 1000.0 + f64::from(time.nanos) / 1e6;
    match (start, end) {
        (Some(start), Some(end)) => ms(end) - ms(start),
        _ => 0.0,
    }
}
