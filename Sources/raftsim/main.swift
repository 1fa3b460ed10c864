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
        + "\(outcome.elections) elections, \(faults) faults, \(outcome.changes) changes of membership, "
        + "\(outcome.moves) shards moved, \(outcome.cuts) split or merged, "
        + "\(outcome.installs) snapshots, calls: "
        + "\(outcome.answered) answered, \(outcome.refused) refused, \(outcome.lost) unknown, \(outcome.reads) reads by the nodes, "
        + "\(outcome.undecided) keys undecided; hash \(hexadecimal(outcome.hash))"
}

func describe(_ plan: CorePlan, _ outcome: CoreSimulation.Outcome) -> String {
    "seed \(plan.seed): \(outcome.violation.map { "FAILED \($0)" } ?? "passed"); cores, \(plan.life.rawValue), "
        + "\(outcome.steps) steps, \(outcome.terms) terms, \(outcome.committed) entries, \(outcome.changes) changes, "
        + "\(outcome.reads) reads; hash \(hexadecimal(outcome.hash))"
}

/// The end of a failure's timeline, and the smallest schedule that still fails.
func explain(_ plan: CorePlan, _ violation: Violation) {
    put("seed \(plan.seed): timeline, its end")
    var last: [String] = []
    var simulation = CoreSimulation(plan) { line in
        if last.count >= 1000 { last.removeFirst(500) }
        last.append(line)
    }
    _ = simulation.run()
    for line in last.suffix(200) { put("  " + line) }
    let smallest = plan.shrunk(failing: violation.checker)
    let (some, all) = (smallest.schedule.deeds.count, plan.schedule.deeds.count)
    explain(plan.seed, "\(some) of \(all) deeds", smallest.schedule.description, smallest.arguments)
}

/// What is enough for a failure, and how to see it.
func explain(_ seed: UInt64, _ enough: String, _ schedule: String, _ arguments: String) {
    put("seed \(seed): \(enough) are enough: \(schedule.isEmpty ? "none" : schedule)")
    put("replay: \(replayCommand) \(arguments) --timeline")
}

/// Runs a seed; how many events there were, and whether it failed. The first failure is told in full.
func run(_ seed: UInt64, _ arguments: Arguments, isFirstFailure: Bool) -> (steps: Int, failed: Bool) {
    let timeline = arguments.printsTimeline && !arguments.isMany ? { put($0) } : nil
    if arguments.isOfCores {
        let plan = arguments.corePlan(seed)
        var simulation = CoreSimulation(plan, timeline: timeline)
        let outcome = simulation.run()
        if !arguments.isMany || outcome.violation != nil { put(describe(plan, outcome)) }
        if let violation = outcome.violation, isFirstFailure, !arguments.printsTimeline { explain(plan, violation) }
        return (outcome.steps, outcome.violation != nil)
    }
    let plan = arguments.plan(seed)
    let outcome = Simulation(plan, timeline: timeline).run()
    if !arguments.isMany || outcome.violation != nil { put(describe(plan, outcome)) }
    if let violation = outcome.violation, isFirstFailure, !arguments.printsTimeline { explain(plan, violation) }
    return (outcome.steps, outcome.violation != nil)
}

/// The timeline of a failure, and the smallest schedule that still fails.
func explain(_ plan: Plan, _ violation: Violation) {
    put("seed \(plan.seed): timeline")
    _ = Simulation(plan, timeline: { put("  " + $0) }).run()
    let smallest = plan.shrunk(failing: violation.checker)
    let (some, all) = (smallest.schedule.faults.count, plan.schedule.faults.count)
    explain(plan.seed, "\(some) of \(all) faults", smallest.schedule.description, smallest.arguments)
}

var words = Array(CommandLine.arguments.dropFirst())
if words.contains("--help") || words.contains("-h") {
    put(Arguments.help)
    exit(0)
}
#if MUTANTS
    if let status = runMutants(&words) { exit(status) }
#endif
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
    let result = run(seed, arguments, isFirstFailure: failures == 0)
    steps += result.steps
    if result.failed { failures += 1 }
}
if arguments.isMany {
    let elapsed = seconds() - began
    put(
        "raftsim: \(arguments.seeds.count) seeds, \(failures) failed; \(steps) steps in \(Int(elapsed * 1000)) ms, "
            + "\(Int(Double(steps) / max(elapsed, 0.001))) steps/s")
}
exit(failures == 0 ? 0 : 1)
