import Glibc
import Synchronization

/// Runs an actor on a thread of its own, so that it may block: reading a pipe must not keep the tasks' threads.
///
/// The thread ends when the executor is gone; by then nothing is queued, for whoever queues keeps the executor.
final class ThreadExecutor: SerialExecutor {
    /// What executor and thread share.
    private final class Queue: @unchecked Sendable {
        /// Each with its executor, which lives at least until the job has run.
        let jobs = Mutex<[(job: UnownedJob, executor: ThreadExecutor)]>([])
        let isClosed = Atomic(false)
        /// Counts what the thread has to look at. Its address must not change, hence memory of its own.
        private let wakeups = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

        init() {
            let result = sem_init(wakeups, 0, 0)
            precondition(result == 0, "a semaphore that starts at 0 can always be made")
        }

        deinit {
            sem_destroy(wakeups)
            wakeups.deallocate()
        }

        func wake() { sem_post(wakeups) }

        func sleep() { while sem_wait(wakeups) != 0 {} }
    }

    private let queue = Queue()

    init() throws(Failure) {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(queue)
        let failure = pthread_create(&thread, nil, { ThreadExecutor.run($0) }, context.toOpaque())
        guard failure == 0 else {
            context.release()
            throw .failed("cannot start a thread: \(String(cString: strerror(failure)))")
        }
        pthread_detach(thread)
    }

    deinit {
        queue.isClosed.store(true, ordering: .releasing)
        queue.wake()
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.jobs.withLock { $0.append((job, self)) }
        queue.wake()
    }

    private static func run(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
        guard let context else { return nil }
        let queue = Unmanaged<Queue>.fromOpaque(context).takeRetainedValue()
        while !queue.isClosed.load(ordering: .acquiring) {
            queue.sleep()
            let waiting = queue.jobs.withLock { jobs in
                defer { jobs.removeAll() }
                return jobs
            }
            for (job, executor) in waiting { job.runSynchronously(on: executor.asUnownedSerialExecutor()) }
        }
        return nil
    }
}
