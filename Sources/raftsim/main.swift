import Glibc
import Simulator

func put(_ text: String, on stream: Int32 = STDOUT_FILENO) {
    var text = text + "\n"
    text.withUTF8 { buffer in
        var done = 0
        while done < buffer.count {
            let count = write(stream, buffer.baseAddress.map { $0 + done }, buffer.count - done)
            guard count > 0 else { return }
            done += count
        }
    }
}

func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}

func describe(_ plan: Plan, _ outcome: Simulation.Outcome) -> String {
    let verdict = outcome.violation.map { "FAILED \($0)" } ?? "passed"
    let faults = outcome.faults.values.reduce(0, +)
    return "seed \(plan.seed): \(verdict); \(plan.groups) groups on \(plan.nodes) nodes, \(outcome.steps) steps, "
        + "\(outcome.elections) elections, \(faults) faults, \(outcome.changes) changes of membership, calls: "
        + "\(outcome.answered) answered, \(outcome.refused) refused, \(outcome.lost) unknown, \(outcome.undecided) keys undecided; hash \(hexadecimal(outcome.hash))"
}

/// The timeline of a failure, and the smallest schedule that still fails.
func explain(_ plan: Plan, _ violation: Violation) {
    put("seed \(plan.seed): timeline")
    _ = Simulation(plan, timeline: { put("  " + $0) }).run()
    let smallest = plan.shrunk(failing: violation.checker)
    put(
        "seed \(plan.seed): \(smallest.schedule.faults.count) of \(plan.schedule.faults.count) faults are enough: "
            + (smallest.schedule.faults.isEmpty ? "none" : smallest.schedule.description))
    put("replay: raftsim \(smallest.arguments) --timeline")
}

let words = Array(CommandLine.arguments.dropFirst())
if words.contains("--help") || words.contains("-h") {
    put(Arguments.help)
    exit(0)
}
let arguments: Arguments
do throws(UsageError) {
    arguments = try Arguments(words)
} catch {
    put("raftsim: \(error.text) (see raftsim --help)", on: STDERR_FILENO)
    exit(2)
}

let began = seconds()
var steps = 0
var failures = 0
for seed in arguments.seeds {
    let plan = arguments.plan(seed)
    let simulation = Simulation(plan, timeline: arguments.printsTimeline && !arguments.isMany ? { put($0) } : nil)
    let outcome = simulation.run()
    steps += outcome.steps
    if !arguments.isMany || outcome.violation != nil { put(describe(plan, outcome)) }
    guard let violation = outcome.violation else { continue }
    failures += 1
    // one story is enough to begin with
    if failures == 1, !arguments.printsTimeline { explain(plan, violation) }
}
if arguments.isMany {
    let elapsed = seconds() - began
    put(
        "raftsim: \(arguments.seeds.count) seeds, \(failures) failed; \(steps) steps in \(Int(elapsed * 1000)) ms, "
            + "\(Int(Double(steps) / max(elapsed, 0.001))) steps/s")
}
exit(failures == 0 ? 0 : 1)
