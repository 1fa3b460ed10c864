import ClusterProcesses
import Glibc

/// The command line's entry: finds what is to be measured, and measures it. Exit status 0: measured; 1: worse than a
/// bound that was given, or something failed under the load; 2: usage; 128 and the number of a signal that ended it.
@main
struct Raftbench {
    static func main() async {
        do { try ProcessGuard.begin() } catch { put("raftbench: \(error)\n", on: STDERR_FILENO) }
        do throws(UsageError) {
            let words = Array(CommandLine.arguments.dropFirst())
            if words.contains("--help") || words.contains("-h") || words.first == "help" {
                put(help, on: STDOUT_FILENO)
                exit(0)
            }
            let (command, arguments) = try parse(words)
            let conditions = await Conditions.now(words)
            let report = try await command.run(arguments)
            put(conditions.stamped(on: report.text), on: STDOUT_FILENO)
            if let complaint = report.complaint {
                put("raftbench: \(complaint)\n", on: STDERR_FILENO)
                exit(1)
            }
        } catch {
            put("raftbench: \(error.text) (see raftbench --help)\n", on: STDERR_FILENO)
            exit(2)
        }
    }

    /// The command that `words` name, and its options.
    static func parse(_ words: [String]) throws(UsageError) -> (Command, Arguments) {
        guard let name = words.first else { throw UsageError(text: "no command given") }
        guard let command = Command.all.first(where: { $0.name == name }) else {
            throw UsageError(text: "there is no command '\(name)'")
        }
        return (command, try Arguments(words.dropFirst(), of: command))
    }

    private static var help: String {
        var text = "usage: raftbench COMMAND [--OPTION VALUE]…\n"
        for command in Command.all {
            text += "\n\(command.name): \(command.summary)\n"
            for option in command.options {
                let name = option.value.isEmpty ? option.spelling : "\(option.spelling) \(option.value)"
                text += "  \(name)\(String(repeating: " ", count: max(1, 24 - name.count)))\(option.help)\n"
            }
        }
        return text
    }

    private static func put(_ text: String, on descriptor: Int32) {
        var text = text
        text.withUTF8 { _ = write(descriptor, $0.baseAddress, $0.count) }
    }
}
