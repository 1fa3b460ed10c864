import Simulator
import Transport

/// A worker that can be made to hang: it takes jobs and runs none until it goes on.
final class StallingWorker: Worker, @unchecked Sendable {
    private let worker: any Worker
    private var held: [(job: @Sendable () -> Void, completion: @Sendable () -> Void)] = []

    /// Called before and after each job, if set.
    var onJob: ((_ isDone: Bool) -> Void)?

    init(_ worker: any Worker) { self.worker = worker }

    var hangs = false {
        didSet {
            guard !hangs else { return }
            let waiting = held
            held = []
            for (job, completion) in waiting { submit(job, completion: completion) }
        }
    }

    func submit(_ job: @escaping @Sendable () -> Void, completion: @escaping @Sendable () -> Void) {
        guard !hangs else { return held.append((job, completion)) }
        worker.submit {
            self.onJob?(false)
            job()
            self.onJob?(true)
        } completion: {
            completion()
        }
    }
}

extension SimulatedNode {
    /// Its log's writer in this life.
    var logWorker: StallingWorker { recording.worker("log") }
    /// Its state machines' worker in this life.
    var applyWorker: StallingWorker { recording.worker("apply") }
}
