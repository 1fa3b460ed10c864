import Glibc
import NodeRuntime
import RaftCore
import RaftHost
import Synchronization
import Transport

/// A node of a ``TestCluster`` while it runs: on a thread of its own, with a network that can be cut.
final class NodeThread: Sendable {
    private struct State {
        var node: ServerNode?
        var network: CuttableNetwork?
        var failure: NodeError?
    }

    /// What the node's thread and others share.
    private final class Shared: Sendable {
        let state = Mutex(State())
    }

    private let shared = Shared()
    private let thread: Mutex<pthread_t?> = Mutex(nil)

    /// Starts a node that is cut from `cut`; returns when it listens.
    init(_ configuration: NodeConfiguration, logger: Logger, cut: [NodeAddress]) throws(NodeError) {
        let started = Semaphore()
        let thread = Self.start { [shared] in
            do throws(NodeError) {
                var network: CuttableNetwork?
                var node: ServerNode? = try ServerNode(configuration, logger: logger) { inner, loop in
                    let cuttable = CuttableNetwork(inner, loop, cut: cut)
                    network = cuttable
                    return cuttable
                }
                shared.state.withLock { [node, network] in ($0.node, $0.network) = (node, network) }
                started.signal()
                node?.run()
                // the node ends here, on its own thread: its directory is free when the thread has been joined
                shared.state.withLock { ($0.node, $0.network) = (nil, nil) }
                (node, network) = (nil, nil)
            } catch {
                shared.state.withLock { $0.failure = error }
                started.signal()
            }
        }
        started.wait()
        if let failure = shared.state.withLock({ $0.failure }) {
            pthread_join(thread, nil)
            throw failure
        }
        self.thread.withLock { $0 = thread }
    }

    /// Cuts the node's way to `addresses`, and to nobody else.
    func cut(_ addresses: [NodeAddress]) {
        shared.state.withLock { state in
            guard let node = state.node, let network = state.network else { return }
            node.onLane { network.cut(addresses) }
        }
    }

    /// Ends the node without a farewell; returns when its thread has ended.
    func kill() { end { $0.kill() } }

    /// Ends the node in order; returns when its thread has ended.
    func stop() { end { $0.stop() } }

    private func end(_ order: (ServerNode) -> Void) {
        shared.state.withLock { state in if let node = state.node { order(node) } }
        let thread = self.thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        if let thread { pthread_join(thread, nil) }
    }

    private static func start(_ body: @escaping @Sendable () -> Void) -> pthread_t {
        var thread = pthread_t()
        let boxed = Unmanaged.passRetained(Body(body))
        let result = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, boxed.toOpaque())
        precondition(result == 0, "no thread for a node (errno \(result))")
        return thread
    }
}

private final class Body: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}

/// Lets one thread wait for another.
private final class Semaphore: @unchecked Sendable {
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func signal() { sem_post(semaphore) }

    func wait() { while sem_wait(semaphore) != 0 && errno == EINTR {} }
}
