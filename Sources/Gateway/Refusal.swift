internal import RaftCore
internal import ShardMap

/// Why a command is not executed: the text of its error reply, in Redis's words where Redis has them.
struct Refusal: Error, Equatable {
    let text: String
    init(_ text: String) { self.text = text }

    static let syntax = Refusal("ERR syntax error")
    static let notAnInteger = Refusal("ERR value is not an integer or out of range")
    static let invalidCursor = Refusal("ERR invalid cursor")
    static let bulkTooLong = Refusal(.valueTooLarge)

    static func commandTooLong(_ limit: Int) -> Refusal {
        Refusal("ERR a command's arguments must be at most \(limit) bytes long together")
    }

    static func arity(_ command: String) -> Refusal {
        Refusal("ERR wrong number of arguments for '\(command)' command")
    }

    static func invalidExpiry(_ command: String) -> Refusal {
        Refusal("ERR invalid expire time in '\(command)' command")
    }

    static func unknownSubcommand(_ name: Bytes, of command: String) -> Refusal {
        Refusal("ERR unknown subcommand '\(name.quotable(limit: 128))'. Try \(command.uppercased()) HELP.")
    }

    /// Quotes the name and the first arguments, as much of them as Redis does.
    static func unknownCommand(_ arguments: [Bytes]) -> Refusal {
        var quoted = ""
        for argument in arguments.dropFirst() {
            guard quoted.utf8.count < 128 else { break }
            quoted += "'\(argument.quotable(limit: 128 - quoted.utf8.count))' "
        }
        let name = arguments[0].quotable(limit: 128)
        return Refusal("ERR unknown command '\(name)', with args beginning with: \(quoted)")
    }

    /// A named error in its Redis form; Redis has words of its own for a value that is no integer.
    init(_ error: NamedError, _ message: String? = nil) {
        let sentence = error == .notAnInteger ? error.sentence : message ?? error.sentence
        self.init("\(error.redisPrefix) \(sentence)")
    }
}
