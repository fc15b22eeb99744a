-- claim_channels.sql($1 now, $2 until when, $3 how many at most, $4 those in trouble, $5 how many chats at most): channels at which
-- something is due, for nobody else until then. First those of whoever has the fewest that are being sent to, so that the many slow
-- channels of one team delay no other; then the one that waits longest. Of each the first message; or, if it was held back, all that was
-- and is due, as a digest.
with ready as (
  select channel.id, kind = 'chat' as is_chat, coalesce(team_id, person_id) as owner, (
    select min(due_at) from sending where channel_id = channel.id and state = 'waiting' and digest_id is null
  ) as due_at
  from channel
  where removed_at is null and (sending_until is null or sending_until <= $1) and coalesce(retry_at, $1) <= $1
    and (troubled_since is not null) = $4
    and exists (
      select from sending where channel_id = channel.id and state = 'waiting' and digest_id is null and due_at <= $1
    )
), busy as (
  select kind = 'chat' as is_chat, coalesce(team_id, person_id) as owner, count(*) as many
  from channel where sending_until > $1 and removed_at is null group by 1, 2
), fair as (
  select ready.*, coalesce(many, 0) + row_number() over (partition by ready.is_chat, ready.owner order by due_at, id) as turn
  from ready left join busy on busy.is_chat = ready.is_chat and busy.owner is not distinct from ready.owner
), queue as (
  select fair.*, row_number() over (partition by is_chat order by turn, due_at, id) as place from fair
), first as (
  select id from channel
  where id in (select id from queue where not is_chat or place <= $5 order by turn, due_at, id limit $3)
    and (sending_until is null or sending_until <= $1)
  for update skip locked
), claimed as (
  update channel set sending_until = $2 from first where channel.id = first.id returning channel.*
)
select claimed.*, due.contents, due.first_at
from claimed
cross join lateral (
  select message.id, is_held, message.urgent, sending.due_at, tries
  from sending join message on message.id = message_id
  where channel_id = claimed.id and state = 'waiting' and digest_id is null and due_at <= $1
  order by message.urgent desc, sending.due_at, message.at, message.id limit 1
) one
cross join lateral (
  select array_agg(content order by message.at, message.id) as contents, min(coalesce(sending.first_at, sending.due_at)) as first_at
  from sending join message on message.id = message_id
  where channel_id = claimed.id and state = 'waiting' and digest_id is null and sending.due_at <= $1
    and (message.id = one.id or (one.is_held and one.tries = 0 and sending.is_held and sending.tries = 0))
) due
