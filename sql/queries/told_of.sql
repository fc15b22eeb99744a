-- told_of.sql($1 limit): the repos of which a delivery told that the repository itself changed, since the forge was last asked about it.
select repo.id
from delivery
join hook on hook.id = delivery.hook_id
join repo on repo.id = hook.repo_id
where delivery.kind = 'repository' and delivery.received_at > coalesce(repo.asked_at, '-infinity')
  and repo.connection_id is not null and repo.repository_id is not null
group by repo.id
order by min(delivery.received_at)
limit $1
