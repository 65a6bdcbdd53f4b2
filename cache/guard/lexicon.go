package guard

import (
	"strconv"
	"strings"
)

// The lexicons. They are read-only.

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// groups maps every word of a line to the line's first word.
func groups(lines string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		for _, w := range words {
			m[w] = words[0]
		}
	}
	return m
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

var quotePairs = map[string]string{
	"```": "```", "`": "`", `"`: `"`, "“": "”", "「": "」", "『": "』", "《": "》",
}

var negators = set(`not no never without none nothing nobody neither nor cannot hardly isnt dont doesnt`)

// switches are verbs that make "on" the opposite of "off".
var switches = set(`turn turning turned switch switching switched power put leave keep toggle set`)

var numberWords = map[string]string{
	"zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
	"nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15",
	"sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30",
	"forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
	"hundred": "100", "thousand": "1000", "million": "1e+06", "billion": "1e+09", "half": "0.5", "twice": "2",
	"double": "2", "triple": "3", "dozen": "12", "second": "2", "third": "3", "fourth": "4", "fifth": "5",
}

// shortUnits are units only after a number, unitNames anywhere.
var shortUnits = groups(`
km kms
m
cm
mm
mi
ft
in
kg kgs
g
mg
lb lbs
oz
l
ml
s sec secs
ms
min mins
h hr hrs
c
f
k
kb
mb
gb
tb
kw
w
v
mph
kph
px
pct
am
pm`)

var unitNames = groups(`
km kilometer kilometers kilometre kilometres
m meter meters metre metres
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters millimetre millimetres
mi mile miles
ft foot feet
inch inches
kg kilogram kilograms kilo kilos
g gram grams
lb pound pounds
oz ounce ounces
l liter liters litre litres
ml milliliter milliliters
s seconds
min minute minutes
h hour hours
day days
week weeks
month months
year years
c celsius
f fahrenheit
kelvin
kb kilobyte kilobytes
mb megabyte megabytes
gb gigabyte gigabytes
tb terabyte terabytes
% percent percentage
usd dollar dollars
eur euro euros
gbp
yen`)

var symbolUnits = map[rune]string{'%': "%", '°': "degree", '$': "usd", '€': "eur", '£': "gbp", '¥': "yen"}

var dateWords = groups(`
january jan
february feb
april apr
june jun
july jul
august aug
september sep sept
october oct
november nov
december dec
monday mon
tuesday tue
wednesday wed
thursday thu
friday fri
saturday sat
sunday sun
spring
summer
autumn
winter
christmas
easter
morning
noon
evening
midnight`)

var monthBefore = set(`in of since until by from during early late mid next last every`)

var formatWords = groups(`
json
xml
yaml
csv
html
markdown
table tables
list lists bullet bullets
poem poems verse
haiku
essay
email mail
letter
paragraph paragraphs
sentence sentences
word words
story
song
code script
summary summarize summarise
diagram`)

var quantifierWords = groups(`
all every each
some
any
only
most
few
many
both`)

var questionWords = groups(`
who whom whose
when
where
why`)

var measures = set(`many much long far old tall high deep wide heavy fast often big large hot cold soon`)

// measureKind folds measures that ask for the same.
func measureKind(low string) string {
	switch low {
	case "large":
		return "big"
	case "high":
		return "tall"
	}
	return low
}

var personWords = groups(`
my our mine
your yours
his
her hers
their theirs`)

var pronouns = set(`it its that this these those them they he she him her one ones more again continue shorter longer simpler same previous above former latter another else`)

var relations = set(`to from into onto than before after over under by for versus vs between`)

var timelyWords = set(`today tonight now currently current latest newest recent recently yesterday tomorrow nowadays upcoming news weather`)

var periods = set(`week weekend month year morning afternoon evening quarter season`)

// scaffold words shape a question without changing what it is about.
var scaffold = set(`a an the and or of to in on at by for with from as is are was were be been being am do does did
	can could would should will shall may might must have has had i me we us you it its this that these those
	what whats which who when where why how please kindly tell explain describe show give say know want need like
	help let there here so just really actually briefly about into than then if but quickly simply exactly
	define definition mean means meaning question answer hi hello hey thanks thank ok well some any my your work works`)

// synonyms map a stem to another that may stand for it.
var synonyms = map[string]string{
	"larg": "big", "huge": "big", "purchas": "buy", "begin": "start", "commenc": "start", "fix": "repair",
	"quick": "fast", "rapid": "fast", "assist": "help", "obtain": "get", "smart": "clever", "switch": "turn", "method": "way",
	"pictur": "imag", "photo": "imag", "car": "auto", "automobil": "auto", "film": "movi", "kid": "child", "children": "child",
}

// fillers are content words, by their hash, whose presence changes no question.
var fillers = func() map[uint64]bool {
	m := make(map[uint64]bool)
	for _, w := range strings.Fields("city detail details detailed example examples simple simply terms basic basics possible exactly exact short brief quick thing things kind kinds sort") {
		m[hash("content", stemmed(w))] = true
	}
	return m
}()

// pole is a word with an opposite.
type pole struct {
	pair     string
	negative bool
}

var poleWords = func() map[string]pole {
	m := make(map[string]pole)
	for line := range strings.Lines(`
on activate activated active|deactivate deactivated inactive
enable enabled enabling|disable disabled disabling
allow allowed permit|deny denied block blocked forbid prohibit ban
open opening|close closed closing shut
start begin launch|stop end quit terminate
add insert append|remove delete drop
create make|destroy
install|uninstall
increase raise rising grow|decrease reduce lower falling shrink
maximum max maximize maximise|minimum min minimize minimise
highest most largest biggest tallest longest|lowest least smallest shortest
fastest quickest|slowest
oldest|youngest newest
best|worst
more|less fewer
high|low
hot hottest warm|cold coldest cool
before earlier|after later
first|last final
next|previous
buy buying|sell selling
import|export
upload|download
encode encoding|decode decoding
encrypt encryption|decrypt decryption
compress|decompress extract
lock|unlock
connect|disconnect
attach mount|detach unmount
push|pull
show visible|hide hidden
include including|exclude excluding
accept|reject decline
win winning|lose losing
pass|fail
left|right
up|down
inside indoor|outside outdoor
above|below
true|false
positive|negative
legal|illegal
safe safely|unsafe dangerous
possible|impossible
common|rare uncommon
pros advantage advantages benefit benefits|cons disadvantage disadvantages drawback drawbacks
cause causes|effect effects
male man men boy|female woman women girl
husband|wife
father|mother
ascending|descending
horizontal|vertical
public|private
free|paid
cheap cheapest|expensive
easy easiest|hard hardest difficult
day|night
sunrise|sunset
arrive arrival|depart departure
borrow|lend
like love|hate dislike
input|output
read|write
sync synchronous|async asynchronous
client|server
north|south
east|west
raw|cooked
wet|dry
alive|dead`) {
		plus, minus, ok := strings.Cut(strings.TrimSpace(line), "|")
		if !ok {
			continue
		}
		pair := strings.Fields(plus)[0]
		for _, w := range strings.Fields(plus) {
			m[w] = pole{pair, false}
		}
		for _, w := range strings.Fields(minus) {
			m[w] = pole{pair, true}
		}
	}
	return m
}()

// zhPoles are looked up as substrings, in order.
var zhPoles = func() (list []struct {
	text     string
	pair     string
	negative bool
}) {
	for line := range strings.Lines(`
打开 开启 启动|关闭 关掉
启用|禁用 停用
允许|禁止
增加 提高 上升 增大|减少 降低 下降 减小
最大 最高 最多 最长 最快 最贵 最早|最小 最低 最少 最短 最慢 最便宜 最晚
以前 之前|以后 之后
购买|出售
进口|出口
安装|卸载
上传|下载
加密|解密
编码|解码
压缩|解压
添加 新增|删除 移除
连接|断开
优点 好处 优势|缺点 坏处 劣势
喜欢|讨厌
左边 左侧|右边 右侧
公开|私有
合法|违法 非法
男|女
日出|日落
开始|结束 停止
便宜|昂贵
热|冷
借给|借自
阳性|阴性`) {
		plus, minus, ok := strings.Cut(strings.TrimSpace(line), "|")
		if !ok {
			continue
		}
		pair := strings.Fields(plus)[0]
		for _, w := range strings.Fields(plus) {
			list = append(list, struct {
				text, pair string
				negative   bool
			}{w, pair, false})
		}
		for _, w := range strings.Fields(minus) {
			list = append(list, struct {
				text, pair string
				negative   bool
			}{w, pair, true})
		}
	}
	return list
}()

var (
	zhTimely    = strings.Fields("今天 今日 今晚 现在 目前 当前 最新 最近 昨天 明天 本周 这周 本月 这个月 今年 刚才 天气 几点 实时")
	zhFormats   = strings.Fields("表格 列表 段落 诗 邮件 代码 故事 总结 摘要 一句话 作文")
	zhPersons   = strings.Fields("我的 你的 他的 她的 我们的 你们的 他们的")
	zhPronouns  = strings.Fields("那个 这个 它 继续 再来 还有呢 短一点 长一点 上面 前面 刚刚 第二个呢 那第")
	zhRelations = strings.Fields("到 从 把 被 比 给 对 成 于")
	zhNegators  = strings.Fields("不 没 无 别 勿 未 非 莫")
)

var zhUnits = []struct{ text, unit string }{
	{"摄氏", "c"}, {"华氏", "f"}, {"公里", "km"}, {"千米", "km"}, {"厘米", "cm"}, {"毫米", "mm"}, {"英里", "mi"},
	{"英尺", "ft"}, {"米", "m"}, {"公斤", "kg"}, {"千克", "kg"}, {"毫克", "mg"}, {"克", "g"}, {"斤", "jin"},
	{"毫升", "ml"}, {"升", "l"}, {"百分之", "%"}, {"美元", "usd"}, {"欧元", "eur"}, {"日元", "yen"}, {"人民币", "cny"}, {"元", "cny"},
	{"小时", "h"}, {"分钟", "min"}, {"秒", "s"}, {"天", "day"}, {"星期", "week"}, {"周", "week"}, {"月", "month"}, {"年", "year"},
}

var zhQuestions = []struct{ text, kind string }{
	{"什么时候", "when"}, {"何时", "when"}, {"哪里", "where"}, {"哪儿", "where"}, {"在哪", "where"}, {"为什么", "why"},
	{"为何", "why"}, {"多少", "how many"}, {"多高", "how tall"}, {"多长", "how long"}, {"多远", "how far"}, {"多大", "how old"}, {"谁", "who"}, {"几", "how many"},
}

// zhScaffold removes what shapes a question without changing what it is about.
var zhScaffold = removing(`能不能 可不可以 是不是 会不会 有没有 要不要 好不好 对不对 行不行 请问一下 请问 请你 请 麻烦 帮我 告诉我 给我 我想知道 想知道 解释一下 解释 说明一下 说明 介绍一下 介绍
	是什么意思 什么是 是什么 什么 怎么样 怎样 怎么 如何 应该 可以 能够 一下 一些 一种 一个 有哪些 哪些 哪个 吗 呢 吧 啊 呀 了 的 地 得 是 我要 我想 我`)

// zhNeutral removes forms with a negator in them that negate nothing.
var zhNeutral = removing(`不同 不过 不仅 不管 不断 特别 区别 差别 别人 级别 类别 性别
	分别 告别 非常 非洲 是否 否则 没关系 无线 无论 无锡 无人机 未来 差不多 不锈钢 对不起 除非`)

// zhIdioms removes numerals that count nothing.
var zhIdioms = removing(`一下 一个 一些 一样 一起 一般 一直 一定 一点 统一 唯一 第一 万一 千万 十分 百度 三角 四川 九江 五官 万能 百科 亿万 一种 一边 进一步`)

func removing(words string) *strings.Replacer {
	var pairs []string
	for _, w := range strings.Fields(words) {
		pairs = append(pairs, w, " ")
	}
	return strings.NewReplacer(pairs...)
}
