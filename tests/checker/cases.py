r"""Cases written for this repository: (gold, answer, equal), by class. Labels follow mathematics and docs/checker.md."""

YES, NO = True, False

CASES: dict[str, list[tuple[str, str, bool]]] = {
    "fractions": [
        (r"\frac{3}{4}", "0.75", YES), (r"\frac34", "3/4", YES), (r"\dfrac{3}{4}", r"\tfrac34", YES),
        (r"\frac{6}{8}", r"\frac{3}{4}", YES), (r"-\frac{7}{9}", r"\frac{-7}{9}", YES), (r"-\frac79", r"\frac{7}{-9}", YES),
        (r"\frac{7}{9}", r"-\frac{7}{9}", NO), (r"\frac{3}{4}", r"\frac{4}{3}", NO), (r"\frac{2}{3}", "0.67", NO),
        (r"\frac{2}{3}", "0.666666666666667", YES), (r"\frac{2}{3}", "0.666666", NO), (r"\frac{1}{3x}", r"\frac13x", NO),
        (r"\frac{x}{3}", r"\frac13x", YES), (r"\frac{a}{b}", r"\frac{b}{a}", NO), (r"\frac{5}{1}", "5", YES),
        (r"\frac{\frac12}{3}", r"\frac16", YES), ("1/(2)", "0.5", YES), (r"\frac{14}{1}", "1/14", NO), ("7/3", "2.33", NO),
        (r"\frac{1}{2}+\frac{1}{3}", r"\frac{5}{6}", YES), (r"\frac{11}{25}", r"\frac1125", NO), ("-3/5", "- 3 / 5", YES),
        (r"\frac{2}{7}", r"\frac{ 2 }{ 7 }", YES), (r"\frac{1}{1+\frac{1}{2}}", r"\frac23", YES), (r"\frac 5 8", "0.625", YES),
    ],
    "mixed numbers": [
        (r"2\frac{1}{4}", "2.25", YES), (r"2\frac14", r"\frac94", YES), ("2 1/4", "9/4", YES), (r"-2\frac14", "-2.25", YES),
        (r"2\frac{1}{4}", r"\frac{1}{2}", NO), (r"2\cdot\frac14", r"\frac12", YES), ("2 1/4", "21/4", NO),
        (r"5\frac{2}{3}", "5 2/3", YES), (r"1\frac{1}{2}\text{ hours}", "1.5", YES), ("-1 1/2", "-3/2", YES),
    ],
    "decimals": [
        ("0.25", ".25", YES), ("3.0", "3", YES), ("3.10", "3.1", YES), ("3.1", "3.01", NO), ("200", "200.002", NO),
        ("1.5e3", "1500", YES), (r"2.5\times10^{-3}", "0.0025", YES), (r"6 \cdot 10^4", "60000", YES), ("-0.5", "0.5", NO),
        (r"10^{15}", r"10^{15}+1", NO), ("0.1", "0.10000000000000001", YES), ("12345678901234567890", "12345678901234567891", NO),
        (r"\sqrt{3}", "1.732", NO), (r"\sqrt{3}", "1.7320508075688772", YES), (r"\pi", "3.14", NO), ("5.", "5", YES),
        (r"\frac{22}{7}", r"\pi", NO), ("1e-7", "0.0000001", YES), ("3.14", r"\pi", NO), ("+7", "7", YES),
    ],
    "repeating decimals": [
        (r"0.\overline{6}", r"\frac23", YES), (r"0.\bar{6}", "2/3", YES), (r"0.1\overline{6}", r"\frac16", YES),
        (r"0.\overline{6}", "0.6", NO), (r"0.\overline{6}", "0.666", NO), (r"0.\overline{45}", r"\frac{5}{11}", YES),
        (r"0.\overline{45}", r"0.\overline{54}", NO), (r"3.\overline{142857}", r"\frac{22}{7}", YES), (r"0.\overline9", "1", YES),
        (r"\frac13", r"0.333\ldots", YES), ("1/6", "0.1666...", YES), (r"0.\overline{45}", "0.45", NO),
    ],
    "thousands": [
        ("12,000", "12000", YES), ("12000", "12{,}000", YES), (r"12,\!000", "12000", YES), ("12 000", "12000", YES),
        ("1,234,567", "1234567", YES), (r"1,234,567.5", "1234567.5", YES), ("12,000", "(12,0)", NO), ("12,000", "12", NO),
        (r"\$12,000", "12000", YES), (r"(1,2)", "12", NO), ("1,2", "12", NO), (r"2\,500", "2500", YES), ("12,000", "1200", NO),
        ("100,200,300", "100, 200, 300", YES), (r"(10,000, 20,000)", "(10000,20000)", YES), ("(100,200)", "(100, 200)", YES),
    ],
    "radicals": [
        (r"\sqrt{12}", r"2\sqrt{3}", YES), (r"\sqrt{12}", r"3\sqrt{2}", NO), (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", YES),
        (r"\sqrt[3]{16}", r"2\sqrt[3]{2}", YES), (r"\sqrt[3]{-8}", "-2", YES), (r"2^{1/2}", r"\sqrt2", YES),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", YES), (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5}", NO), (r"3\sqrt 7", "3sqrt(7)", YES),
        (r"\sqrt{x^2}", "x", NO), (r"\sqrt{x^2}", "|x|", YES), (r"\sqrt{49}", "7", YES), (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\sin 15^\circ", YES),
        (r"\sqrt{7+4\sqrt{3}}", r"2+\sqrt{3}", YES), (r"5\sqrt{2}", r"5 \cdot \sqrt{2}", YES), (r"4\sqrt{5}", "4√5", YES),
        (r"\sqrt{\frac{3}{4}}", r"\frac{\sqrt3}{2}", YES), (r"\sqrt{15}", r"\sqrt{51}", NO), (r"\sqrt[4]{81}", "3", YES),
        (r"\frac{3+\sqrt{5}}{2}", r"\frac{3-\sqrt{5}}{2}", NO), (r"8^{2/3}", "4", YES), (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}", YES),
    ],
    "polynomials": [
        ("x^2-4", "(x-2)(x+2)", YES), ("x^2-4", "x^2+4", NO), ("3xy", "3yx", YES), ("3x+2", "2+3x", YES), ("x^2", "2x", NO),
        ("2x(x+1)", "2x^2+2x", YES), ("-x+5", "5-x", YES), ("n(n+1)/2", r"\frac{n^2+n}{2}", YES), ("a-b", "-(b-a)", YES),
        ("x^{2}+x", "x**2+x", YES), ("x^3y", "yx^3", YES), ("4x^2", "(2x)^2", YES), ("4x^2", "2x^2", NO), ("x", "X", NO),
        (r"\frac{x^2-1}{x-1}", "x+1", YES), (r"x^{-1}", r"\frac1x", YES), ("5x+3", "5x+3y", NO), ("x^{10}", "x^{11}", NO),
        ("(x+1)^3", "x^3+3x^2+3x+1", YES), ("7x-2", "7x+2", NO), ("2^n", "n^2", NO), (r"2^{n+1}", r"2\cdot 2^n", YES),
        (r"-\frac{1}{x}", r"\frac{1}{-x}", YES), ("k", "2k", NO), ("ab+c", "a(b+c)", NO), (r"x^{a+b}", r"x^a x^b", YES),
    ],
    "complex": [
        ("3-4i", "-4i+3", YES), ("3-4i", "3+4i", NO), ("i^2", "-1", YES), ("(1+i)^2", "2i", YES), (r"\frac{1}{i}", "-i", YES),
        (r"e^{i\pi/2}", "i", YES), (r"\sqrt{-4}", "2i", YES), (r"\frac{1+i}{\sqrt 2}", r"e^{i\pi/4}", YES), ("|3+4i|", "5", YES),
    ],
    "functions": [
        (r"\sin^2 x+\cos^2 x", "1", YES), (r"\cos 2x", r"1-2\sin^2 x", YES), (r"\cos 2x", r"2\sin^2 x - 1", NO), (r"\cot x", r"\frac{1}{\tan x}", YES),
        (r"\cos 60^\circ", r"\frac12", YES), (r"\cos(\pi/3)", "0.5", YES), (r"\tan 45^\circ", "1", YES), (r"\sin x", r"\cos x", NO),
        (r"\log_3 81", "4", YES), (r"\ln e^2", "2", YES), (r"\log 1000", "3", YES), (r"\ln 8", r"3\ln 2", YES), (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", YES),
        (r"\arctan 1", r"\frac{\pi}{4}", YES), ("5!", "120", YES), (r"\binom{6}{2}", "15", YES), (r"\frac{8!}{6!}", "56", YES),
        (r"\lfloor 3.7 \rfloor", "3", YES), (r"\lceil 3.2\rceil", "4", YES), ("|-6|", "6", YES), (r"\frac{1}{\sin x}", r"\csc x", YES),
        (r"2^{-3}", r"\frac18", YES), ("f(x+1)", "f(1+x)", YES), ("f(x)", "g(x)", NO), (r"\gcd(12,18)", "6", YES), (r"\sin^{-1} 1", r"\frac\pi2", YES),
        (r"\log_{10} 5", r"\log 5", YES), (r"e^{\ln 5}", "5", YES), (r"\tan x", r"\sin x/\cos x", YES), (r"\log 2 + \log 5", "1", YES),
    ],
    "pi": [
        (r"6\pi", "6pi", YES), (r"6\pi", r"\pi 6", YES), (r"6\pi", r"2\cdot 3\pi", YES), (r"6\pi", "6", NO), (r"\frac{\pi}{3}", "pi/3", YES),
        (r"\frac{4}{3}\pi", r"\frac{4\pi}{3}", YES), (r"\frac{4}{3\pi}", r"\frac{4\pi}{3}", NO), (r"\pi^2", r"2\pi", NO), ("π/6", r"\frac{\pi}{6}", YES),
        (r"36\pi", "36 π", YES), (r"9\pi", "28.27", NO),
    ],
    "degrees": [
        (r"45^\circ", "45", YES), (r"45^{\circ}", r"45\text{ degrees}", YES), ("45°", r"45^\circ", YES), (r"45^\circ", r"54^\circ", NO),
        ("60", "60 degrees", YES), (r"\angle ABC = 60^\circ", "60", YES), (r"60^\circ", r"\frac{\pi}{3}", NO), (r"-40^\circ", "-40", YES),
    ],
    "percent": [
        (r"35\%", "35", YES), (r"35\%", "35%", YES), ("35", "35 percent", YES), (r"35\%", "0.35", NO), (r"35\%", "3500", NO), (r"12.5\%", r"12\frac12\%", YES),
    ],
    "units and money": [
        ("24", r"24\text{ cm}", YES), ("24", "24 cm", YES), (r"24\text{ cm}^2", "24", YES), (r"24\text{ square inches}", "24", YES), ("24", r"24 \mathrm{~cm}", YES),
        (r"\frac{1}{2}\text{ mile}", "0.5", YES), ("7 days", "7", YES), (r"\$7.50", "7.5", YES), ("7.5", "7.50 dollars", YES), ("7.50", r"\$7.05", NO),
        (r"24\text{ cm}", "25 cm", NO), (r"60\text{ mph}", "60 miles per hour", YES), (r"24\text{ cm}^3", r"24\,\text{cm}^3", YES), ("24", "24 apples", YES),
        ("24", "24x", NO), (r"5\sqrt{3}\text{ meters}", r"5\sqrt3", YES), ("10", "about 10", YES), ("1.5", r"1.5~\text{hours}", YES), (r"12\text{ ft}", "12 feet", YES),
        ("30", r"30 \textrm{ m/s}", YES), ("3", r"3 \text{ inches}", YES), (r"64\pi\text{ cubic feet}", r"64\pi", YES), ("100", r"\$100", YES), ("€25", "25", YES),
    ],
    "tuples": [
        ("(1,2)", "(1, 2)", YES), ("(1,2)", "(2,1)", NO), (r"\left(1,2\right)", "(1,2)", YES), ("(1,2)", "(1,2,3)", NO), (r"(\frac12,3)", "(0.5,3)", YES),
        ("(1,-2)", "(1,2)", NO), (r"(1,2)", r"\{1,2\}", NO), (r"(x,y)=(1,2)", "(1,2)", YES), ("(1,2)", "x=1,y=2", YES), ("(1,2)", "x=2,y=1", NO),
        (r"(0,\pi)", "(0,3.14)", NO), (r"(\sqrt{8},1)", r"(2\sqrt2,1)", YES), ("(1,2)", "(1.0,2.0)", YES), (r"\langle 1,2\rangle", r"\langle 2,1\rangle", NO),
        ("(a,b)", "(b,a)", NO), ("(3,4)", "[3,4]", NO),
    ],
    "lists": [
        ("1,2", "2,1", YES), ("1,2", "1,3", NO), ("1,2", "1,2,3", NO), ("1,2,3", "1,2", NO), ("1 and 2", "1, 2", YES), ("1 or 2", "2 or 1", YES), ("2", "1,2", NO),
        (r"1\text{ and }2", "1,2", YES), ("x=1,x=2", "1,2", YES), ("x=1, 2", r"x=2\text{ or }x=1", YES), ("x=1,y=2", "y=2,x=1", YES), ("x=1,y=2", "x=2,y=1", NO),
        ("x=1,y=2", "1,2", YES), ("(1,2),(3,4)", "(3,4),(1,2)", YES), ("(1,2),(3,4)", "(1,2),(4,3)", NO), (r"(1,2)\text{ and }(3,4)", "(1,2), (3,4)", YES),
        (r"\{1,2\}", "1,2", YES), (r"x \in \{1,2\}", r"\{2,1\}", YES), ("Alice and Bob", "Bob, Alice", YES), ("1,1,2", "1,2,2", NO),
    ],
    "plus minus": [
        (r"\pm 5", "5,-5", YES), (r"\pm 5", "-5, 5", YES), (r"\pm 5", "5", NO), ("-5", r"\pm5", NO), (r"2\pm\sqrt3", r"2+\sqrt3, 2-\sqrt3", YES),
        (r"2\pm\sqrt3", r"2-\sqrt3,2+\sqrt3", YES), (r"2\pm\sqrt3", r"2+\sqrt3", NO), (r"x=\pm2", r"x=2\text{ or }x=-2", YES), ("±4", r"\{-4,4\}", YES),
        (r"\frac{1\pm\sqrt5}{2}", r"\frac{1\pm\sqrt{5}}{3}", NO), (r"\pm\frac{1}{2}", r"\frac12,-\frac12", YES), (r"\pm i", "i,-i", YES),
    ],
    "sets": [
        (r"\{1,2,3\}", r"\{3,1,2\}", YES), (r"\{1,2,3\}", r"\{1,2\}", NO), (r"\{1,2\}", r"\{1,2,2\}", YES), (r"\emptyset", r"\{\}", YES), (r"\varnothing", r"\emptyset", YES),
        (r"\emptyset", "0", NO), (r"\text{no solution}", r"\emptyset", YES), (r"\{0\}", "0", YES), (r"\{\frac12,1\}", r"\{1,0.5\}", YES), ("{1,2}", "(1,2)", YES),
        ("{1,2}", "(2,1)", NO), (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}", YES), (r"\{-1\}\cup[0,7)", r"[0,7)\cup\{-1\}", YES), (r"\{x\mid x>2\}", r"(2,\infty)", YES),
        (r"\{x : x \ne 3\}", r"x\ne3", YES), (r"\{a,b\}", r"\{b,a\}", YES), (r"\{1,2\}", r"[1,2]", NO),
    ],
    "intervals": [
        ("[1,2]", "(1,2)", NO), ("[1,2)", "[1,2]", NO), (r"(-\infty,5)", r"x<5", YES), (r"(-\infty,5]", "x<5", NO), (r"[5,\infty)", r"x\ge5", YES), (r"[5,\infty)", r"5\le x", YES),
        (r"(1,3]", r"1<x\le3", YES), ("(1,3]", r"3\ge x>1", YES), (r"(-\infty,1)\cup(1,\infty)", r"x\ne1", YES), (r"(-\infty,1)\cup(1,\infty)", r"\mathbb{R}\setminus\{1\}", YES),
        (r"(1,2)\cup(2,3)", r"(2,3)\cup(1,2)", YES), (r"(1,2)\cup(2,3)", "(1,3)", NO), (r"(1,2]\cup[2,3)", "(1,3)", YES), (r"(1,2)\cup(3,4)", r"(1,2)\cap(3,4)", NO),
        (r"(-\infty,-2)\cup(2,\infty)", r"x<-2\text{ or }x>2", YES), (r"(-\infty,-2)\cup(2,\infty)", r"|x|>2", YES), (r"(-2,2)", "|x|<2", YES), (r"[-2,2]", r"x^2\le4", YES),
        (r"(-\infty,\infty)", r"\mathbb{R}", YES), (r"(-\infty,\infty)", r"\text{all real numbers}", YES), (r"(0,\infty)", "x>0", YES), (r"x\in[1,2]", "[1,2]", YES),
        (r"(-\infty, 3) U (3, \infty)", r"x \neq 3", YES), (r"(0,1)", "0 < y < 1", YES), (r"[0,\sqrt2]", r"[0, 2^{1/2}]", YES), (r"(1,+\infty)", r"(1,\infty)", YES), (r"(-\infty,3)", "(3,-\\infty)", NO),
        (r"(-\sqrt{2},\sqrt{2})", r"x^2<2", YES),
    ],
    "inequalities": [
        ("x>2", "2<x", YES), ("x>2", r"x\ge2", NO), ("x>2", "x<2", NO), ("x>2", "2x>4", YES), ("x>2", "-x<-2", YES), ("x>2", "-x>-2", NO), ("x+y<1", "2x+2y<2", YES), ("x+y<1", "x+y>1", NO),
        (r"x\leq 4", "x<=4", YES), (r"x \neq 0", "x != 0", YES), ("a<b<c", "c>b>a", YES), ("a<b<c", "a<c<b", NO), ("x>2", "2", NO), (r"x \geqslant 1", r"x\ge 1", YES), ("x>2", "y>2", NO),
    ],
    "equations": [
        ("x=7", "7", YES), ("x=7", "x = 7", YES), ("x=7", "7=x", YES), ("x=7", "x=8", NO), ("y=2x+1", "2x+1", YES), ("y=2x+1", "2x-y+1=0", YES), ("y=2x+1", "y=2x-1", NO), ("x+y=3", "y+x=3", YES),
        ("x+y=3", "2x+2y=6", YES), ("x+y=3", "x+y=4", NO), ("x+y=3", "x+y-3=0", YES), ("f(x)=x^2", "x^2", YES), ("3", "x = 3", YES), (r"\sqrt{2}", r"x=\sqrt2 \approx 1.414", YES),
        (r"x^2+y^2=9", r"\frac{x^2}{9}+\frac{y^2}{9}=1", YES), ("2x+y=1", "1", NO), ("x+2y=0", "0", NO), ("10^2=100", "100", YES), (r"\text{Area}=12", "12", YES), ("AB=12", "12", YES), ("5=6", "6", NO),
        ("n=12=12", "12", YES), ("y=x^2", "y=x^3", NO), (r"\frac{x^2}{4}+y^2=1", "x^2+4y^2=4", YES), ("y-2=3(x-1)", "y=3x-1", YES), ("x = 4 = 5", "5", NO), ("A=x^2", "B=x^2", NO),
        (r"xy=1", r"y=\frac1x", YES),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", YES), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", NO),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", NO), (r"\begin{pmatrix}1/2\\1\end{pmatrix}", r"\begin{pmatrix}0.5\\1\end{pmatrix}", YES),
        (r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}", YES), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2", YES), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "10", NO),
        (r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", YES), (r"\begin{pmatrix}\sqrt{4}\\2\end{pmatrix}", r"\begin{pmatrix}2\\2\end{pmatrix}", YES),
        (r"\begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", YES),
    ],
    "bases": [
        ("101_2", "101_{2}", YES), ("101_2", "101_3", NO), ("101_2", "1012", NO), ("101_2", "111_2", NO), ("5A_{16}", "5A_{16}", YES), (r"342_{\text{five}}", "342_5", YES), ("101_2", "5", NO),
    ],
    "ratios and times": [
        ("2:3", "2:3", YES), ("2:3", "3:2", NO), ("10:45", "10:54", NO), (r"10:45\text{ a.m.}", "10:45 AM", YES), ("10:45 AM", "10:45 PM", NO), ("a:b=2:3", "2:3", YES), ("4:6", "2:3", YES),
    ],
    "text": [
        (r"\text{Tuesday}", "Tuesday", YES), (r"\text{Tuesday}", "tuesday", YES), (r"\text{Tuesday}", "Thursday", NO), (r"\text{(B)}", "B", YES), (r"\text{(B)}", "(B)", YES), (r"\textbf{(B)}", "B", YES), (r"\text{B}", "C", NO),
        (r"\text{odd}", "even", NO), (r"\text{prime}", "not prime", NO), (r"\text{Yes}", "yes", YES), (r"\text{Yes}", "No", NO), (r"\text{a hyperbola}", "hyperbola", YES), (r"\text{isosceles}", r"\textbf{isosceles}", YES),
        (r"\text{neither}", "even", NO), (r"\text{five}", "5", YES), (r"\text{red}", "blue", NO), ("A", r"\mathrm{A}", YES), (r"\text{June 20}", "June 20", YES), (r"\text{June 20}", "June 21", NO), (r"\mathrm{(C)}", r"\text{C}", YES),
        ("12th grade", "12", NO), (r"\text{undefined}", "0", NO),
    ],
    "spelling of the same": [
        (r"$x+1$", "x+1", YES), (r"\(x+1\)", "x+1", YES), ("x + 1.", "x+1", YES), (r"\displaystyle\frac12", r"\frac12", YES), (r"x\cdot y", "xy", YES), (r"x\times y", "x*y", YES), (r"{5}", "5", YES), (r"\mathbf{5}", "5", YES),
        (r"\boxed{5}", "5", YES), (r"**5**", "5", YES), (r"\\frac{1}{2}", r"\frac12", YES), (r"5\quad", "5", YES), (r"x^{2}", "x²", YES), ("−3", "-3", YES), (r"3 \text{ }", "3", YES), ("(5)", "5", YES), (r"\left\{1\right\}", "1", YES),
        (r"\mathrm{e}^2", "e^2", YES), (r"\vec{v}", r"\vec{v}", YES), (r"\overline{AB}", r"\overline{CD}", NO), (r"\frac{\pi}{2}\,", r"\frac{\pi}2", YES), (r"5 \, \text{units}", "5", YES), (r"\;7\;", "7", YES), ("2·3", "6", YES),
    ],
    "look-alikes": [
        ("18", "81", NO), ("18", "180", NO), ("18", "-18", NO), ("18", "18x", NO), (r"\sqrt{18}", "18", NO), ("a_1", "a_2", NO), ("a_{12}", "a_{1}2", NO), ("2x", "x^2", NO), ("1+1", "11", NO), ("3^2", "32", NO), ("3^2", "9", YES),
        ("0", "", NO), ("0", "-0", YES), ("1", "i", NO), ("0", "o", NO), (r"\infty", r"-\infty", NO), (r"\infty", r"+\infty", YES), ("e", "2.718", NO), ("e", "2.718281828459045", YES), ("E", "e", NO),
    ],
    "mangled": [
        (r"\frac{1}{2}", r"\frac*12", NO), (r"3", r"3\pm", NO), ("7", "7)", NO), (r"\sqrt{3}", r"\sqrt*3", NO), ("12", "1 2", NO), ("x", r"\foo{x}", NO), ("4", "4,,", YES), ("13", "1,3", NO),
    ],
}  # fmt: skip

ROWS = [(name, *case) for name, cases in CASES.items() for case in cases]
