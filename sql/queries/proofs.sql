-- proofs.sql($1 team_id, $2 now, $3 how many at most, $4 the name of one repo or null): how each repo of a team was last proved to
-- be restorable, what failed first, then what was not proved for longest.
with known as (
  select repo.id, repo.name, repo.damaged_at, repo.drill_at, drill_days, last.*
  from repo join team on team.id = repo.team_id
  left join lateral (
    select finished_at, snapshot, moment, seconds, problems from drill
    where drill.repo_id = repo.id order by finished_at desc, drill.id desc limit 1
  ) as last on true
  where team_id = $1 and repo.protected_as_of is not null and ($4::text is null or repo.name = $4)
), counted_here as (
  select
    count(*) as total,
    count(*) filter (where finished_at is null) as undrilled,
    count(*) filter (where finished_at < $2::timestamptz - coalesce(nullif(drill_days, 0), 30) * interval '1 day') as stale,
    count(*) filter (where cardinality(problems) > 0) as failing
  from known
)
select shown.*, counted_here.*, repo_rto(shown.id) as rto
from counted_here left join lateral (
  select * from known
  order by (cardinality(problems) > 0 or damaged_at is not null) desc nulls last, finished_at nulls first, name limit $3
) as shown on true
