-- foreseen_hosts.sql($1 now, $2 window): how the runs at each host ended, for each team: done, or the host could not be reached.
select repo.team_id, repo.host, job.finished_at as at, job.state = 'failed' as failed
from job join repo on repo.id = job.repo_id
where kind = 'sync' and job.state in ('done', 'failed') and repo.host is not null
  and job.finished_at > $1::timestamptz - $2::interval
  and (job.state = 'done' or job.failure_class = 'network' and job.failure_origin = 'source')
