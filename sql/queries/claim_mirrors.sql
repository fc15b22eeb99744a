-- claim_mirrors.sql($1 now, $2 until, $3 how many at most, $4 those whose last push failed, $5 shares of this worker, $6 patience, $7 teams
-- that get none): targets that are due, for nobody else until then. Of each team the one that waits longest comes before the second of any
-- other, and what is pushed now counts: else a team with a long queue would get each slot that becomes free.
with under_way as (
  select mirror.team_id, count(*) as pushes
  from mirror_target target join mirror on mirror.id = target.mirror_id
  where target.pushing_until > $1 group by mirror.team_id
), due as (
  select target.id, target.due_at, coalesce(under_way.pushes, 0)
    + row_number() over (partition by mirror.team_id order by target.due_at, target.id) as turn
  from mirror_target target join mirror on mirror.id = target.mirror_id left join under_way on under_way.team_id = mirror.team_id
  where target.due_at <= $1 and (target.pushing_until is null or target.pushing_until <= $1)
    and mirror.paused_at is null and (target.failures > 0) = $4 and mirror.team_id <> all ($7::uuid[])
    and (get_byte(uuid_send(target.repo_id), 0) = any ($5::int[]) or target.due_at <= $1 - $6::interval)
), chosen as (
  select target.id from mirror_target target join due on due.id = target.id
  where target.pushing_until is null or target.pushing_until <= $1
  order by due.turn, due.due_at limit $3 for update of target skip locked
)
update mirror_target set pushing_until = $2, attempt = attempt + 1 from chosen where mirror_target.id = chosen.id
returning mirror_target.id, mirror_target.attempt
