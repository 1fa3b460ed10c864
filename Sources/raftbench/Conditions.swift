import ClusterProcesses
import FlotillaTestSupport
import Glibc

/// Under which conditions something was measured: without them a figure says nothing.
struct Conditions: Sendable {
    /// When it began, in UTC.
    var date: String
    /// Processors, memory, and what the system calls itself.
    var machine: String
    /// The commit that the program stands in, if it is built in a checkout.
    var version: String
    /// What the machine did besides when it began: the load average of the last minute.
    var load: String
    /// As they were given.
    var commandLine: [String]

    /// As they are now.
    static func now(_ commandLine: [String]) async -> Conditions {
        Conditions(
            date: stamp(), machine: machine(), version: await version(),
            load: (try? Files.text("/proc/loadavg"))?.split(separator: " ").first.map(String.init) ?? "unknown",
            commandLine: commandLine)
    }

    /// Of a JSON object.
    var members: [(name: String, value: String)] {
        [
            ("command", jsonString(commandLine.first ?? "")), ("arguments", jsonArray(commandLine.map(jsonString))),
            ("date", jsonString(date)), ("machine", jsonString(machine)), ("version", jsonString(version)),
            ("load_average", jsonString(load)),
        ]
    }

    /// `json`, an object, with these as its first members.
    func stamped(on json: String) -> String {
        guard json.hasPrefix("{\"") else { return json }
        return jsonObject(members).dropLast() + "," + json.dropFirst()
    }

    private static func stamp() -> String {
        var now = time(nil)
        var parts = tm()
        gmtime_r(&now, &parts)
        var text = [CChar](repeating: 0, count: 32)
        strftime(&text, text.count, "%Y-%m-%d %H:%M UTC", &parts)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func machine() -> String {
        let processors = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        let model =
            (try? Files.text("/proc/cpuinfo"))?.split(separator: "\n").first { $0.hasPrefix("model name") }?
            .split(separator: ":").last.map { String($0.drop { $0 == " " }) }
        let memory = (sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))) >> 30
        let system = (try? Files.text("/proc/sys/kernel/osrelease"))?.split(separator: "\n").first.map(String.init)
        return "\(processors) processors (\(model ?? "unknown")), \(memory) GiB, Linux \(system ?? "unknown")"
    }

    private static func version() async -> String {
        let directory = TemporaryDirectory()
        let output = directory.path + "/output"
        let place = String(Files.besideThisProgram("").dropLast())
        guard
            let git = try? ChildProcess(
                "/usr/bin/git", ["-C", place, "describe", "--always", "--dirty", "--abbrev=12"], output: output),
            (try? await git.waitForExit(timeout: .seconds(10))) == 0,
            let line = (try? Files.text(output))?.split(separator: "\n").first
        else { return "unknown" }
        return String(line)
    }
}
