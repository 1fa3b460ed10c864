import Glibc
import NodeRuntime
import RaftHost

/// Writes a whole line with one system call, so that lines of several threads do not mix.
@Sendable func printLine(_ line: String) {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    var parts = tm()
    gmtime_r(&now.tv_sec, &parts)
    var stamp = [CChar](repeating: 0, count: 32)
    strftime(&stamp, stamp.count, "%Y-%m-%dT%H:%M:%S", &parts)
    let milliseconds = now.tv_nsec / 1_000_000
    let padded = String(repeating: "0", count: milliseconds < 10 ? 2 : milliseconds < 100 ? 1 : 0) + "\(milliseconds)"
    let time = String(decoding: stamp.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    put("\(time).\(padded)Z \(line)\n", on: STDERR_FILENO)
}

@Sendable func put(_ text: String, on descriptor: Int32) {
    var text = text
    text.withUTF8 { _ = write(descriptor, $0.baseAddress, $0.count) }
}

func complain(_ text: String, status: Int32) -> Never {
    put("raftd: \(text)\n", on: STDERR_FILENO)
    exit(status)
}

/// Hears `signals` even if the parent left them blocked. Called before the first thread, for each inherits the mask.
func unblock(_ signals: [Int32]) {
    var mask = sigset_t()
    sigemptyset(&mask)
    for signal in signals { sigaddset(&mask, signal) }
    pthread_sigmask(SIG_UNBLOCK, &mask, nil)
}

/// A socket is a file: as many as the system lets this process have.
func raiseFileLimit() {
    let files = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    var limit = rlimit()
    guard getrlimit(files, &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(files, &limit)
}

let arguments = Array(CommandLine.arguments.dropFirst())
if arguments.contains("--help") || arguments.contains("-h") {
    put(Options.help, on: STDOUT_FILENO)
    exit(0)
}
if arguments.contains("--version") {
    put("raftd 0.1.0\n", on: STDOUT_FILENO)
    exit(0)
}

var options = Options()
let configuration: NodeConfiguration
do throws(UsageError) {
    try options.read(arguments)
    configuration = try options.configuration()
} catch {
    complain("\(error.text) (see raftd --help)", status: 2)
}

raiseFileLimit()
let stopSignals = [SIGTERM, SIGINT]
unblock(stopSignals)
let logger = Logger(level: options.logLevel, sink: printLine)
do throws(NodeError) {
    let node = try ServerNode(configuration, logger: logger)
    node.onSignals(stopSignals) { _ in node.stop() }
    node.run()
    if let failure = node.failure { complain(failure, status: 1) }
} catch {
    complain(error.description, status: 1)
}
// the workers hold nothing that is not durable any more
exit(0)
