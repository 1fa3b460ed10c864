import ClusterProcesses
import Synchronization

/// Waits for what comes about by itself.
enum Wait {
    /// Returns when `condition` holds; fails the test after `timeout`.
    static func until(
        _ goal: String, timeout: Duration = .seconds(20), _ condition: () async throws -> Bool
    ) async throws {
        let end = ContinuousClock.now + timeout
        while !(try await condition()) {
            guard ContinuousClock.now < end else { throw Failed("still not after \(timeout): \(goal)") }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}

/// A value that tasks share.
final class Guarded<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>

    init(_ value: Value) { mutex = Mutex(value) }

    var value: Value { mutex.withLock { $0 } }

    func change(_ body: (inout Value) -> Void) { mutex.withLock { body(&$0) } }
}

/// Tells tasks that it is over.
final class Flag: Sendable {
    private let value = Atomic(false)

    var isSet: Bool { value.load(ordering: .acquiring) }

    func set() { value.store(true, ordering: .releasing) }
}
