import Glibc

func put(_ text: String, on descriptor: Int32) {
    var text = text
    text.withUTF8 { _ = write(descriptor, $0.baseAddress, $0.count) }
}

func help() -> String {
    var text = "usage: raftbench COMMAND [--OPTION VALUE]…\n"
    for command in Command.all {
        text += "\n\(command.name): \(command.summary)\n"
        for option in command.options {
            let name = "--\(option.name) \(option.value)"
            text += "  \(name)\(String(repeating: " ", count: max(1, 20 - name.count)))\(option.help)\n"
        }
    }
    return text
}

do throws(UsageError) {
    let words = CommandLine.arguments.dropFirst()
    if words.contains("--help") || words.contains("-h") || words.first == "help" {
        put(help(), on: STDOUT_FILENO)
        exit(0)
    }
    guard let name = words.first else { throw UsageError(text: "no command given") }
    guard let command = Command.all.first(where: { $0.name == name }) else {
        throw UsageError(text: "there is no command '\(name)'")
    }
    try command.run(Arguments(words.dropFirst(), of: command))
} catch {
    put("raftbench: \(error.text) (see raftbench --help)\n", on: STDERR_FILENO)
    exit(2)
}
