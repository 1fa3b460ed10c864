import ShardClient
import ShardMap

/// How raftctl ends; the numbers are part of its contract.
enum ExitStatus: Int32 {
    case done = 0
    /// Refused, or failed.
    case failed = 1
    /// The command line makes no sense.
    case usage = 2
    /// None of the addresses answers.
    case unreachable = 3
}

/// Why a command ends early: its exit status, and the line that says what happened and what to do.
struct Failure: Error, Equatable {
    var status: ExitStatus
    var message: String

    static func failed(_ message: String) -> Failure { Failure(status: .failed, message: message) }
    static func usage(_ message: String) -> Failure {
        Failure(status: .usage, message: "\(message) (see raftctl help)")
    }
    static func unreachable(_ message: String) -> Failure { Failure(status: .unreachable, message: message) }
    /// The reader of our output has gone: nothing is left to do, and nothing is wrong.
    static let readerGone = Failure(status: .done, message: "")

    /// An error of the store, met while doing `action`. What whoever refused says in detail stands for itself.
    init(_ error: NamedError, _ detail: String?, while action: String) {
        status = error == .unreachable ? .unreachable : .failed
        message = "\(action): \(detail ?? error.sentence)"
    }

    /// An error of the client, met while doing `action`.
    init(_ error: ClientError, while action: String) {
        status = error.error == .unreachable ? .unreachable : .failed
        message = "\(action): \(error.message)"
    }

    init(status: ExitStatus, message: String) {
        self.status = status
        self.message = message
    }
}
